"""`paceline train replay`: a shared-seed run's result, from its log alone."""

import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cluster.options.train_options import TrainReplayOptions
from parallel.training.shared_seed.step import RoundCommit
from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.training.shared_seed.replay import Replayed, replay, write_result
from runtime.training.shared_seed.seed_log import read_log

_NOTES = Console(stderr=True, highlight=False)


def run(options: TrainReplayOptions) -> int:
    """Rebuild a result and write it; return the exit code.

    Raises:
        ConfigError: the log is damaged, the base another model, or `result` is taken.
    """
    if options.result.exists():
        raise ConfigError(f"{options.result} exists: name a new directory")
    done, base = replayed(options)
    write_result(options.result, done.points, done.replica.theta, done.header, base)
    if options.json:
        print(json.dumps({"out": str(options.result)} | facts(done)))
    else:
        _NOTES.print(f"{options.result}: {say(done)}")
    return 0


def replayed(options: TrainReplayOptions) -> tuple[Replayed, Path]:
    """Return what a log comes to, and the directory of its base; shows a bar meanwhile."""
    base = resolve_model(options.base or read_log(options.log).header.model)

    def watch(commits: Iterable[RoundCommit], total: int) -> Iterable[RoundCommit]:
        return track(commits, "replaying", total=total, console=_NOTES, transient=True)

    return replay(options.log, base, watch), base


def facts(done: Replayed) -> dict[str, int]:
    """Return a log's counts."""
    return {
        "rounds": done.replica.next_round,
        "machines": done.num_machines,
        "scalars": done.num_scalars,
        "log_bytes": done.log_bytes,
        "cut_bytes": done.num_cut_bytes,
    }


def say(done: Replayed) -> str:
    """Return a log's counts for people."""
    cut = done.num_cut_bytes
    ending = f", without the {cut:,} bytes of a last record that is not whole" if cut else ""
    return (
        f"{done.replica.next_round} rounds, {done.num_machines} machines, "
        f"{done.num_scalars:,} scalars, a log of {done.log_bytes:,} bytes{ending}"
    )
