"""`paceline train merge`, `replay` and `verify`: use, rebuild and check the result of a job."""

import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cluster.options.train_options import (
    TrainMergeOptions,
    TrainReplayOptions,
    TrainVerifyOptions,
)
from parallel.training.shared_seed.step import RoundCommit
from runtime.models.checkpoint import resolve_model
from runtime.training.adapters.merge import merge_adapter
from runtime.training.shared_seed.log_check import check_result, difference
from runtime.training.shared_seed.replay import Replayed, replay, write_result
from runtime.training.shared_seed.seed_log import read_log

_NOTES = Console(stderr=True, highlight=False)


def merge(options: TrainMergeOptions) -> int:
    """Write a model with an adapter merged into it; return the exit code.

    Raises:
        ConfigError: the adapter cannot be read or does not fit its model, or `out` exists.
    """
    num_layers = merge_adapter(options.adapter, options.out)
    if options.json:
        print(json.dumps({"out": str(options.out), "layers": num_layers}))
    else:
        Console(stderr=True).print(f"{options.out}: {num_layers} layers changed")
    return 0


def replay_log(options: TrainReplayOptions) -> int:
    """Rebuild the result of a shared-seed run and write it; return the exit code.

    Raises:
        ConfigError: the log is damaged, or the base is another model.
    """
    done, base = _replayed(options.log, options.base)
    write_result(options.out, done.points, done.replica.theta, done.header, base)
    if options.json:
        print(json.dumps({"out": str(options.out)} | _counts(done)))
    else:
        _NOTES.print(f"{options.out}: {_summary(done)}")
    return 0


def verify(options: TrainVerifyOptions) -> int:
    """Compare a published result with its log; return 0 if they agree bit for bit, else 1.

    Raises:
        ConfigError: the log is damaged, the base is another model, or there is no result.
    """
    check_result(options.adapter)
    done, _ = _replayed(options.log, options.base)
    differs = difference(options.adapter, done)
    if options.json:
        print(json.dumps({"same": differs is None, "difference": differs} | _counts(done)))
    elif differs is None:
        _NOTES.print(f"{options.adapter} is the result of its log, bit for bit: {_summary(done)}")
    else:
        _NOTES.print(f"[red]{options.adapter} is not the result of its log:[/] {differs}")
    return 0 if differs is None else 1


def _replayed(log: Path, base_name: str | None) -> tuple[Replayed, Path]:
    """Return the result of a log, and the directory of its base; show a progress bar."""
    base = resolve_model(base_name or read_log(log).header.model)

    def watch(commits: Iterable[RoundCommit], total: int) -> Iterable[RoundCommit]:
        return track(commits, "replaying", total=total, console=_NOTES, transient=True)

    return replay(log, base, watch), base


def _counts(done: Replayed) -> dict[str, int]:
    return {
        "rounds": done.replica.next_round,
        "machines": done.num_machines,
        "scalars": done.num_scalars,
        "log_bytes": done.log_bytes,
        "cut_bytes": done.num_cut_bytes,
    }


def _summary(done: Replayed) -> str:
    cut = done.num_cut_bytes
    ending = f", without {cut:,} bytes of an incomplete last record" if cut else ""
    return (
        f"{done.replica.next_round} rounds, {done.num_machines} machines, "
        f"{done.num_scalars:,} scalars, a log of {done.log_bytes:,} bytes{ending}"
    )
