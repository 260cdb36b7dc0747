"""`paceline draft follow`: train a drafter on the traffic of a running server."""

import json

import ray
from rich.console import Console

from actors.trainer_actor import DraftTrainerActor
from cluster.deploy.target_plan import plan_target
from cluster.network.ray_errors import yielded
from cluster.network.ray_session import RaySession, beside_driver
from cluster.options.draft_options import DraftFollowOptions
from runtime.distillation.draft_follow import FollowEvent, FollowJob
from runtime.distillation.draft_training import TrainSettings
from runtime.drafters.draft_checkpoint import check_drafter, is_drafter
from runtime.errors import ConfigError
from runtime.node.cores import usable_cores

_NOTES = Console(stderr=True, highlight=False)
_POLL_S = 2.0


def run(options: DraftFollowOptions) -> int:
    """Train on the traffic for some rounds, or until interrupted; return the exit code.

    Raises:
        ConfigError: an option cannot be used; nothing was started.
        PacelineError: the training process failed.
    """
    target = plan_target(options.models)
    assert target.facts is not None
    if not options.out.is_dir() or not is_drafter(options.out):
        raise ConfigError(
            f"`out` {options.out} holds no trained drafter: make one with paceline draft train, "
            "or copy the one that ships with paceline"
        )
    check_drafter(options.out, target.facts.directory)
    job = FollowJob(
        target_name=target.name,
        target_directory=str(target.facts.directory),
        traffic=str(options.traffic.absolute()),
        drafter=str(options.out.absolute()),
        window=options.window,
        min_new=options.window // 4,
        round_steps=options.round_steps,
        focus=options.focus,
        num_rounds=options.rounds,
        settings=TrainSettings(
            steps=1,  # unused: each round has `round_steps`
            batch_tokens=options.batch_tokens,
            learning_rate=options.learning_rate,
            seed=options.seed,
        ),
        poll_s=_POLL_S,
        weights=options.models.weights,
        device=options.models.device,
        num_threads=options.models.threads or usable_cores(),
    )
    with RaySession(options.models.ray_address, num_actors=1):
        _follow(job, as_json=options.json)
    return 0


def _follow(job: FollowJob, *, as_json: bool) -> None:
    where = beside_driver()  # where its files are
    actor = ray.remote(DraftTrainerActor).options(num_cpus=0, scheduling_strategy=where).remote()
    try:
        with _NOTES.status("loading") as status:
            for reference in actor.follow.remote(job):
                event: FollowEvent = yielded(reference)
                status.update(
                    f"{event.num_answers} answers read, {event.round} rounds done: waiting for more"
                )
                if event.before is not None:
                    _report(event, as_json=as_json)
    except KeyboardInterrupt:
        _NOTES.print("stopped; improved versions are saved")
    finally:
        ray.kill(actor)


def _report(event: FollowEvent, *, as_json: bool) -> None:
    if as_json:
        fields = {
            "round": event.round,
            "answers": event.num_answers,
            "before": event.before,
            "after": event.after,
            "version": event.version,
        }
        print(json.dumps(fields), flush=True)
        return
    saved = f"saved as version {event.version}" if event.version else "discarded"
    _NOTES.print(
        f"round {event.round}, {event.num_answers} answers: acceptance {event.before:.3f} -> "
        f"{event.after:.3f}, {saved}"
    )
