"""Evaluates weights on a job's workers, batch by batch; a batch of a lost worker is tried again."""

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from runtime.clock import Clock
from runtime.errors import PeerLost
from runtime.training.dispatcher import NO_WORKER_S, Dispatcher
from runtime.training.worker_pool import Pool

_MAX_TRIES = 5
"""Of one batch, before the evaluation fails."""

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def evaluate(
    pool: Pool[Batch, Result], batches: Sequence[Batch], clock: Clock, *, lost_after_s: float
) -> list[Result]:
    """Return the results of all batches, in their order.

    Args:
        pool: workers that compute a batch's result.
        batches: what to compute.
        clock: times the workers.
        lost_after_s: a worker without a result for so long is replaced.

    Raises:
        PeerLost: one batch lost a worker too often, or no worker was ready for too long.
    """
    source = _Batches[Batch, Result](batches)
    Dispatcher(pool, clock, lost_after_s=lost_after_s).run(source)
    return [source.results[number] for number in range(len(batches))]


class _Batches(Generic[Batch, Result]):
    """Batches in a queue, as a source of work."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.results: dict[int, Result] = {}
        self._batches = batches
        self._queue = deque(range(len(batches)))
        self._running: dict[int, int] = {}
        """Each busy worker's batch."""
        self._num_tries = [0] * len(batches)

    def wait_s(self, now_s: float, idle_s: float) -> float | None:  # noqa: ARG002  (nothing is timed)
        if len(self.results) == len(self._batches):
            return None
        if idle_s > NO_WORKER_S:
            raise PeerLost(f"no worker was ready to evaluate for {NO_WORKER_S:g} s")
        return float("inf")

    def next(self, worker: int, now_s: float) -> Batch | None:  # noqa: ARG002  (nothing is timed)
        if not self._queue:
            return None
        number = self._running[worker] = self._queue.popleft()
        return self._batches[number]

    def take(self, worker: int, result: Result, now_s: float) -> None:  # noqa: ARG002  (nothing is timed)
        self.results[self._running.pop(worker)] = result

    def lost(self, worker: int, now_s: float) -> None:  # noqa: ARG002  (nothing is timed)
        number = self._running.pop(worker, None)
        if number is None:
            return
        self._num_tries[number] += 1
        if self._num_tries[number] == _MAX_TRIES:
            raise PeerLost(f"{_MAX_TRIES} workers were lost at one batch of an evaluation")
        self._queue.append(number)
