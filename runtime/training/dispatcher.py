"""Hands work to the workers of a pool; tolerates slow, hung and dead ones.

The queue, the coded rounds and the evaluation differ in what an idle worker computes next and in
when the work is complete: that is their `WorkSource`. Waiting, silence, losses and replacements are
the same for all of them, and are here.
"""

import logging
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from runtime.clock import Clock
from runtime.errors import PeerLost
from runtime.training.worker_pool import Pool, WorkerLost

_LOG = logging.getLogger("paceline.train")
_WAIT_S = 1.0
_SHORTEST_WAIT_S = 0.001
NO_WORKER_S = 300.0
"""A job without any ready worker ends after so many seconds; it can be resumed."""

Work = TypeVar("Work")
Result = TypeVar("Result")
GivenWork = TypeVar("GivenWork", covariant=True)
TakenResult = TypeVar("TakenResult", contravariant=True)


class WorkSource(Protocol[GivenWork, TakenResult]):
    """Decides what workers compute, and when the work is complete."""

    def wait_s(self, now_s: float, idle_s: float) -> float | None:
        """Return how long to wait for the next event, or None when the work is complete.

        `idle_s` is how long no worker has been busy.
        """
        ...

    def next(self, worker: int, now_s: float) -> GivenWork | None:
        """Return what an idle worker starts; None leaves it idle."""
        ...

    def take(self, worker: int, result: TakenResult, now_s: float) -> None:
        """Record a result."""
        ...

    def lost(self, worker: int, now_s: float) -> None:
        """Record that a worker was lost with the work it had; a replacement is starting."""
        ...


class Dispatcher(Generic[Work, Result]):
    """Runs the work of one source after the other on a pool."""

    def __init__(
        self,
        pool: Pool[Work, Result],
        clock: Clock,
        *,
        lost_after_s: float,
        max_losses: int | None = None,
        busy_since: Mapping[int, float] | None = None,
    ) -> None:
        """Dispatch to a pool's workers.

        Args:
            pool: the workers.
            clock: times the workers.
            lost_after_s: a worker without a result for so long is replaced.
            max_losses: workers that may be lost; None is any number.
            busy_since: workers that are busy for an earlier dispatcher, and since when; their
                results are dropped.
        """
        self._pool = pool
        self._clock = clock
        self._lost_after_s = lost_after_s
        self._max_losses = max_losses
        self._busy_since = dict(busy_since or {})
        self._stale = set(self._busy_since)
        self.num_losses = 0
        """Workers that were lost so far."""

    @property
    def busy_since(self) -> dict[int, float]:
        """The busy workers, and since when."""
        return dict(self._busy_since)

    def run(self, source: WorkSource[Work, Result]) -> int:
        """Run a source's work until it is complete; return how many pieces were started.

        Raises:
            PeerLost: more workers were lost than allowed.
        """
        num_started = self._start_idle(source)
        idle_since_s = self._clock.now_s()
        while True:
            now_s = self._clock.now_s()
            if self._busy_since:
                idle_since_s = now_s
            wait_s = source.wait_s(now_s, now_s - idle_since_s)
            if wait_s is None:
                return num_started
            for event in self._pool.wait(min(_WAIT_S, max(wait_s, _SHORTEST_WAIT_S))):
                if isinstance(event, WorkerLost):
                    self._lose(event.worker, event.reason, source)
                    continue
                self._busy_since.pop(event.worker, None)
                if event.worker in self._stale:
                    self._stale.discard(event.worker)
                else:
                    source.take(event.worker, event.result, self._clock.now_s())
            self._replace_silent(source)
            num_started += self._start_idle(source)

    def _start_idle(self, source: WorkSource[Work, Result]) -> int:
        num_started = 0
        for worker in range(self._pool.size):
            if worker in self._busy_since or not self._pool.is_ready(worker):
                continue
            work = source.next(worker, self._clock.now_s())
            if work is not None:
                self._pool.start(worker, work)
                self._busy_since[worker] = self._clock.now_s()
                num_started += 1
        return num_started

    def _replace_silent(self, source: WorkSource[Work, Result]) -> None:
        for worker, since_s in list(self._busy_since.items()):
            if self._clock.now_s() - since_s > self._lost_after_s:
                self._pool.replace(worker)
                self._lose(worker, f"silent for {self._lost_after_s:g} s", source)

    def _lose(self, worker: int, reason: str, source: WorkSource[Work, Result]) -> None:
        _LOG.warning("worker %d was lost and is being replaced: %s", worker, reason)
        self._busy_since.pop(worker, None)
        self._stale.discard(worker)
        source.lost(worker, self._clock.now_s())
        self.num_losses += 1
        if self._max_losses is not None and self.num_losses > self._max_losses:
            raise PeerLost(
                f"worker {worker} was lost ({reason}), loss number {self.num_losses} of this run; "
                f"`workers.max_losses` allows {self._max_losses}"
            )
