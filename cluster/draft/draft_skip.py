"""`paceline draft skip`: search for the layers of a target that drafts for itself."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from itertools import count, groupby
from pathlib import Path

import ray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from actors.trainer_actor import DraftTrainerActor
from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.drafter_plan import NOTHING_DRAFTS
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.draft.answers import CorpusPlan, make_corpus
from cluster.network.ray_errors import yielded
from cluster.network.ray_session import RaySession, beside_driver
from cluster.options.draft_options import DraftSkipOptions
from parallel.drafting.layer_skip import SkipTrial
from runtime.checking.prompt_files import read_prompts
from runtime.distillation.layer_search import SearchJob
from runtime.node.cores import usable_cores

_NOTES = Console(stderr=True)
_SLACK_TOKENS = 400  # cache tokens reserved for the prompt of each request


def run(options: DraftSkipOptions) -> int:
    """Search for the layers to keep and print them; return the exit code.

    Raises:
        ConfigError: an option cannot be used; nothing was started.
        PeerError: a target rank died.
    """
    read_prompts(options.prompts, limit=options.num_prompts)
    target = plan_target(options.models)
    assert target.facts is not None
    with (
        tempfile.TemporaryDirectory(prefix="paceline-") as work,
        RaySession(options.models.ray_address, num_actors=options.models.tp + 1),
    ):
        corpus = _answers(options, target, Path(work))
        job = SearchJob(
            target_directory=str(target.facts.directory),
            corpus=str(corpus),
            num_trials=options.trials,
            seed=options.seed,
            weights=options.models.weights,
            device=options.models.device,
            num_threads=options.models.threads or usable_cores(),
        )
        best, num_trials = _search(job)
    name = f"target:layers={name_layers(best.kept)}"
    if options.json:
        print(json.dumps({"drafter": name, "num_trials": num_trials} | asdict(best)))
        return 0
    print(name)
    worth = "" if best.speedup > 1 else "; this drafter alone is slower than no drafter"
    _NOTES.print(
        f"{len(best.kept)} layers agree on {best.agreement:.2f} of the tokens and cost "
        f"{best.cost:.2f} of a step: predicted speed-up {best.speedup:.2f} with "
        f"draft length {best.draft_length}{worth}"
    )
    return 0


def name_layers(layers: Iterable[int]) -> str:
    """Return layers as `0-3,28-29`."""
    numbers = count()
    runs = [list(run) for _, run in groupby(layers, key=lambda layer: layer - next(numbers))]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _answers(options: DraftSkipOptions, target: PlannedModel, work: Path) -> Path:
    models = options.models
    plan = CorpusPlan(
        prompts=(options.prompts,),
        num_free=0,
        num_per_file=options.num_prompts,
        max_tokens=options.max_tokens,
        seed=options.seed,
        chat=options.chat,
        greedy=True,
    )
    tokens = models.max_batch * (options.max_tokens + _SLACK_TOKENS)
    spec = plan_deployment(models, target, NOTHING_DRAFTS, cache_tokens=tokens, stops=False)
    with Deployment(spec) as deployment:
        with _NOTES.status("starting") as status:
            deployment.start(lambda text: status.update(text))
        return make_corpus(deployment, target, plan, work)


def _search(job: SearchJob) -> tuple[SkipTrial, int]:
    """Run the job in an actor and show its progress; return the best set."""
    where = beside_driver()  # where its files are
    actor = ray.remote(DraftTrainerActor).options(num_cpus=0, scheduling_strategy=where).remote()
    best: SkipTrial | None = None
    num_trials = 0
    with Progress(
        TextColumn("trying sets of layers"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_NOTES,
        refresh_per_second=1,
    ) as progress:
        task = progress.add_task("search", total=job.num_trials, note="")
        for reference in actor.search.remote(job):
            trial: SkipTrial = yielded(reference)
            num_trials += 1
            if best is None or trial.speedup > best.speedup:
                best = trial
            note = f"best {best.speedup:.2f}x with {len(best.kept)} layers"
            progress.update(task, advance=1, note=note)
    ray.kill(actor)
    assert best is not None, "the first set is always tried"
    return best, num_trials
