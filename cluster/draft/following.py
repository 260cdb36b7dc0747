"""`paceline draft train --follow`: a drafter learns from what is served, while it serves."""

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
_LEARNING_RATE = 3e-4  # lower than from scratch: a round has few answers


def run(options: DraftFollowOptions) -> int:
    """Follow the traffic until so many rounds are done, or until interrupted; return the exit code.

    Raises:
        ConfigError: something the user gave cannot be used; nothing was started.
        PacelineError: the training process failed.
    """
    for name, value, least in (
        ("--rounds", options.rounds, 0),
        ("--round-steps", options.round_steps, 1),
        ("--window", options.window, 16),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}: at least {least} is needed")
    target = plan_target(options.models)
    assert target.facts is not None
    if not options.out.is_dir() or not is_drafter(options.out):
        raise ConfigError(
            f"--out {options.out} holds no trained drafter to continue with: make one with draft "
            "train, or copy the one that ships with paceline"
        )
    check_drafter(options.out, target.facts.directory)
    job = FollowJob(
        target_name=target.name,
        target_directory=str(target.facts.directory),
        traffic=str(options.follow.absolute()),
        drafter=str(options.out.absolute()),
        window=options.window,
        least_new=options.window // 4,
        round_steps=options.round_steps,
        focus=options.focus,
        num_rounds=options.rounds,
        settings=TrainSettings(
            steps=1,  # rounds count their own
            batch_tokens=options.batch_tokens,
            learning_rate=_rate(options),
            seed=options.seed,
        ),
        poll_s=_POLL_S,
        dtype=options.models.dtype,
        device=options.models.device,
        num_threads=options.models.threads or usable_cores(),
    )
    with RaySession(options.models.ray_address, num_actors=1):
        _follow(job, as_json=options.json)
    return 0


def _rate(options: DraftFollowOptions) -> float:
    rate = _LEARNING_RATE if options.learning_rate is None else options.learning_rate
    if not 0 < rate < 1:
        raise ConfigError(f"--learning-rate is {rate}: take one between 0 and 1")
    return rate


def _follow(job: FollowJob, *, as_json: bool) -> None:
    where = beside_driver()  # its files lie there
    actor = ray.remote(DraftTrainerActor).options(num_cpus=0, scheduling_strategy=where).remote()
    try:
        with _NOTES.status("loading") as status:
            for reference in actor.follow.remote(job):
                event: FollowEvent = yielded(reference)
                status.update(
                    f"{event.num_answers} answers read, {event.round} rounds done: waiting for more"
                )
                if event.before is not None:
                    _tell(event, as_json=as_json)
    except KeyboardInterrupt:
        _NOTES.print("stopped; what got better is saved")
    finally:
        ray.kill(actor)


def _tell(event: FollowEvent, *, as_json: bool) -> None:
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
    saved = f"saved as version {event.version}" if event.version else "taken back"
    _NOTES.print(
        f"round {event.round}, {event.num_answers} answers: acceptance {event.before:.3f} -> "
        f"{event.after:.3f}, {saved}"
    )
