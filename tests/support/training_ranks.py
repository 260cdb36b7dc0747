"""Ranks of a training worker as threads of this process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from parallel.group import Group
from runtime.groups.threads import ThreadGroup
from runtime.training.job.job_config import TrainConfig
from runtime.training.trainable import Trainable

T = TypeVar("T")
_DEADLINE_S = 120


def members(size: int) -> list[ThreadGroup]:
    """Return the members of a group."""
    return ThreadGroup.make(size, _DEADLINE_S, role="worker")


def on_all(members: Sequence[Group], call: Callable[[int], T]) -> list[T]:
    """Return what each rank returns; an error of one ends the others."""

    def run(rank: int) -> T:
        try:
            return call(rank)
        except BaseException:
            members[rank].close()
            raise

    with ThreadPoolExecutor(len(members)) as pool:
        futures = [pool.submit(run, rank) for rank in range(len(members))]
        errors = [future.exception() for future in futures]
        first = next(
            (e for e in errors if e is not None and "closed its group" not in str(e)), None
        )
        if first is not None:
            raise first
        return [future.result() for future in futures]


class RankedTrainable:
    """A model in training that is split over ranks, called as one."""

    def __init__(self, directory: Path, config: TrainConfig, size: int) -> None:
        self._members = members(size)
        # One after the other: loading changes modules of torch for all threads.
        self.ranks = [Trainable.load(directory, config, "cpu", one) for one in self._members]

    def call(self, call: Callable[[Trainable], T]) -> list[T]:
        return on_all(self._members, lambda rank: call(self.ranks[rank]))
