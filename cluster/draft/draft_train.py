"""`paceline draft train`: train a drafter on the target's answers to prompts."""

import json
from dataclasses import asdict
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
from cluster.options.draft_options import DraftTrainOptions
from parallel.distillation.distill import Divergence
from runtime.checking.prompt_files import read_prompts
from runtime.distillation.draft_job import DraftJob, JobEvent
from runtime.distillation.draft_training import Precision, TrainSettings
from runtime.errors import ConfigError
from runtime.models.checkpoint import parse_layers
from runtime.node.cores import usable_cores

_NOTES = Console(stderr=True)
_SLACK_TOKENS = 400  # cache tokens reserved for the prompt of each request
_STAGES = ("lessons", "training")


def run(options: DraftTrainOptions) -> int:
    """Train a drafter, or resume its training; return the exit code.

    Raises:
        ConfigError: an option cannot be used; nothing was started.
        PeerError: a target rank died; the finished records are kept.
    """
    _check_prompts(options)
    target = plan_target(options.models)
    assert target.facts is not None
    work = options.out.absolute().with_name(options.out.name + ".work")
    job = DraftJob(
        target_name=target.name,
        target_directory=str(target.facts.directory),
        work=str(work),
        out=str(options.out.absolute()),
        corpus_of=_corpus_of(options),
        layers=_layers(options, target),
        head_size=options.head_vocab,
        settings=_settings(options),
        weights=options.models.weights,
        device=options.models.device,
        num_threads=options.models.threads or usable_cores(),
    )
    _claim(work, options)
    with RaySession(options.models.ray_address, num_actors=options.models.tp + 1):
        _write_corpus(options, target, work)
        last = _follow(job)
    found = {"out": job.out, "best_step": last.best_step, "acceptance": last.best}
    if options.json:
        print(json.dumps(found))
    else:
        _NOTES.print(
            f"{options.out}: greedy acceptance {last.best or 0:.3f} on held-out answers "
            f"(step {last.best_step}); try it with --drafter {options.out}"
        )
    return 0


def _follow(job: DraftJob) -> JobEvent:
    """Run the job in an actor and show its progress; return its last event."""
    where = beside_driver()  # its files are there
    actor = ray.remote(DraftTrainerActor).options(num_cpus=0, scheduling_strategy=where).remote()
    event = JobEvent(stage="training", done=0, total=job.settings.steps)
    accepted = ""
    with _bar() as progress:
        tasks = {name: progress.add_task(name, total=None, note="") for name in _STAGES}
        for reference in actor.train.remote(job):
            event = yielded(reference)
            if event.acceptance is not None:
                accepted = f", acceptance {event.acceptance:.3f}"
                progress.console.print(f"step {event.done}: loss {event.loss:.3f}{accepted}")
            note = "" if event.loss is None else f"loss {event.loss:.3f}{accepted}"
            progress.update(tasks[event.stage], completed=event.done, total=event.total, note=note)
    ray.kill(actor)
    return event


def _corpus_of(options: DraftTrainOptions) -> str:
    parts = [f"prompts of {path.name}" for path in options.prompts]
    if options.free_prompts:
        parts.append(f"{options.free_prompts} prompts that the target wrote itself")
    return ", ".join(parts)


def _check_prompts(options: DraftTrainOptions) -> None:
    if not options.prompts and not options.free_prompts:
        raise ConfigError("no prompts to learn from: give `prompts` or `free_prompts`")
    for path in options.prompts:
        read_prompts(path, limit=options.num_prompts)


def _settings(options: DraftTrainOptions) -> TrainSettings:
    return TrainSettings(
        steps=options.steps,
        batch_tokens=options.batch_tokens,
        learning_rate=options.learning_rate,
        divergence=Divergence(options.divergence),
        on_policy=options.on_policy,
        precision=Precision(options.precision),
        train_head=options.train_head,
        seed=options.seed,
    )


def _layers(options: DraftTrainOptions, target: PlannedModel) -> tuple[int, ...]:
    """Return the target layers that initialize the drafter."""
    assert target.facts is not None
    config = target.facts.config
    if options.head_vocab > config.vocab_size:
        raise ConfigError(
            f"`head_vocab` is {options.head_vocab}: {target.name} has {config.vocab_size} tokens"
        )
    if options.init_layers is not None:
        chosen = parse_layers(options.init_layers, config.num_layers)
        if len(chosen) != options.layers:
            raise ConfigError(
                f"`init_layers` names {len(chosen)} layers, `layers` is {options.layers}"
            )
        return chosen
    if options.layers > config.num_layers:
        raise ConfigError(f"`layers` is {options.layers}: {target.name} has {config.num_layers}")
    last = config.num_layers - 1
    return tuple(round(i * last / max(1, options.layers - 1)) for i in range(options.layers))


def _claim(work: Path, options: DraftTrainOptions) -> None:
    """Raise ConfigError if the directory holds another run."""
    if work.exists() and not options.resume:
        raise ConfigError(
            f"{work} already holds a run: resume it with `resume`, or name another `out`"
        )
    work.mkdir(parents=True, exist_ok=True)


def _write_corpus(options: DraftTrainOptions, target: PlannedModel, work: Path) -> None:
    """Generate the missing records of the corpus with a deployment of the target."""
    models = options.models
    plan = CorpusPlan(
        prompts=options.prompts,
        num_free=options.free_prompts,
        num_per_file=options.num_prompts,
        max_tokens=options.max_tokens,
        seed=options.seed,
        chat=options.chat,
    )
    marker, wanted = work / "corpus.json", json.dumps(asdict(plan), default=str)
    if marker.is_file():
        if marker.read_text(encoding="utf-8") != wanted:
            raise ConfigError(f"{work} has a corpus of other prompts: name another `out`")
        return
    tokens = models.cache_tokens or models.max_batch * (options.max_tokens + _SLACK_TOKENS)
    spec = plan_deployment(models, target, NOTHING_DRAFTS, cache_tokens=tokens, stops=False)
    with Deployment(spec) as deployment:
        with _NOTES.status("starting") as status:
            deployment.start(lambda text: status.update(text))
        make_corpus(deployment, target, plan, work)
    marker.write_text(wanted, encoding="utf-8")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_NOTES,
        refresh_per_second=1,
    )
