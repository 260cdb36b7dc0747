"""Queue schemes: exact gradients without redundant load, chunks handed out one at a time.

Every chunk's sum is returned on its own, the first copy counts, and a worker with nothing left to
start runs a backup copy of a chunk that is overdue. The objects are pure: a driver reports events
and times to them.
"""

import math
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

_OVERDUE = 1.25
"""A chunk is overdue after this multiple of the median time."""
_REMEMBERED = 64
_AHEAD = 2
"""Chunks for each worker that a queue hands out beyond the first that is missing."""


class ChunkTimes:
    """How long the last chunks took; shared by all steps of a job."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._overdue_s = 0.0

    def add(self, seconds: float) -> None:
        """Record how long a chunk took."""
        self._seconds.append(seconds)
        self._overdue_s = _OVERDUE * statistics.median(self._seconds)

    @property
    def overdue_s(self) -> float:
        """Seconds after which a chunk is overdue; 0 until a chunk has been timed."""
        return self._overdue_s


class QueueSchedule(Protocol):
    """Decides what each idle worker does next, for one gradient."""

    def next(self, worker: int, now_s: float) -> int | None:
        """Return the chunk that an idle worker starts; None leaves it idle."""
        ...

    def next_copy_s(self, now_s: float) -> float:
        """Return when the next chunk becomes overdue, so that idle workers ask again; or inf."""
        ...

    def done(self, chunk: int, worker: int, now_s: float) -> bool:
        """Record that a chunk was returned; return False if it had been returned before."""
        ...

    def lost(self, worker: int) -> None:
        """Record that a worker will return nothing more."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether every chunk was returned."""
        ...


class _Running:
    """Chunks in progress: their workers and start times, in the order of becoming overdue."""

    def __init__(self, times: ChunkTimes) -> None:
        self._times = times
        self._since_s: OrderedDict[int, dict[int, float]] = OrderedDict()

    def start(self, chunk: int, worker: int, now_s: float) -> int:
        self._since_s.setdefault(chunk, {})[worker] = now_s
        self._since_s.move_to_end(chunk)
        return chunk

    def end(self, chunk: int, worker: int, now_s: float) -> None:
        """Remove a chunk that was returned."""
        since_s = self._since_s.pop(chunk, {}).get(worker)
        if since_s is not None:
            self._times.add(now_s - since_s)

    def leave(self, worker: int) -> list[int]:
        """Remove a worker; return the chunks that no worker computes now."""
        had = [
            chunk
            for chunk, since_s in self._since_s.items()
            if since_s.pop(worker, None) is not None
        ]
        left = sorted(chunk for chunk in had if not self._since_s[chunk])
        for chunk in left:
            del self._since_s[chunk]
        self._since_s = OrderedDict(sorted(self._since_s.items(), key=lambda c: max(c[1].values())))
        return left

    def may_start(self, chunk: int, now_s: float) -> bool:
        """Return whether no worker computes a chunk, or every copy of it is overdue."""
        return chunk not in self._since_s or self._overdue_at_s(chunk) <= now_s

    def first_overdue(self, now_s: float, *, not_of: int) -> int | None:
        """Return the overdue chunk that the fewest other workers compute."""
        overdue = takewhile(lambda chunk: self._overdue_at_s(chunk) <= now_s, self._since_s)
        found = ((len(self._since_s[c]), c) for c in overdue if not_of not in self._since_s[c])
        return min(found, default=(0, None))[1]

    def next_overdue_s(self, now_s: float) -> float:
        """Return when the next chunk that is not overdue yet becomes overdue."""
        later = (at_s for chunk in self._since_s if (at_s := self._overdue_at_s(chunk)) > now_s)
        return next(later, math.inf)

    def _overdue_at_s(self, chunk: int) -> float:
        return max(self._since_s[chunk].values()) + self._times.overdue_s


class _Chunks:
    """Chunks of one gradient that were not returned yet, and their workers."""

    def __init__(self, num_chunks: int, times: ChunkTimes) -> None:
        self._open = set(range(num_chunks))
        self._running = _Running(times)

    def next_copy_s(self, now_s: float) -> float:
        """Return when the next chunk becomes overdue."""
        return self._running.next_overdue_s(now_s)

    def done(self, chunk: int, worker: int, now_s: float) -> bool:
        """Record a returned chunk."""
        if chunk not in self._open:
            return False
        self._running.end(chunk, worker, now_s)
        self._open.discard(chunk)
        return True

    @property
    def is_complete(self) -> bool:
        """Whether every chunk was returned."""
        return not self._open


class PullQueue(_Chunks):
    """Any worker computes any chunk; overdue chunks get a backup copy.

    A queue of microbatches with speculative re-execution (backup tasks: Dean and Ghemawat, 2004,
    section 3.6). Only overdue chunks are copied: a copy that is unfinished when the gradient is
    complete would delay its worker in the next step.
    """

    def __init__(self, num_chunks: int, times: ChunkTimes, *, max_ahead: int | None = None) -> None:
        """Hand out chunks in their order, at most `max_ahead` from the first that is missing.

        The coordinator, which adds the sums in order, then holds fewer than `max_ahead` at a time.
        None is no bound.
        """
        super().__init__(num_chunks, times)
        self._todo = list(range(num_chunks))
        self._max_ahead = num_chunks if max_ahead is None else max_ahead

    def next(self, worker: int, now_s: float) -> int | None:
        """Return the first chunk in the queue, or the overdue one with the fewest copies."""
        if self._todo and self._todo[0] < min(self._open) + self._max_ahead:
            return self._running.start(self._todo.pop(0), worker, now_s)
        overdue = self._running.first_overdue(now_s, not_of=worker)
        return None if overdue is None else self._running.start(overdue, worker, now_s)

    def done(self, chunk: int, worker: int, now_s: float) -> bool:
        """Record a returned chunk."""
        if chunk in self._todo:  # its first worker was marked as lost, then answered after all
            self._todo.remove(chunk)
        return super().done(chunk, worker, now_s)

    def lost(self, worker: int) -> None:
        """Put back the chunks that no other worker computes."""
        self._todo = self._running.leave(worker) + self._todo


class StreamingGroups(_Chunks):
    """Fractional repetition that streams: a group's workers start at different chunks of theirs.

    Worker p of a group of d takes the group's d chunks in the order p, p + 1, ...: first its own,
    then the overdue ones. Without stragglers each worker computes one chunk; any single worker
    could compute all of them.
    """

    def __init__(self, num_workers: int, group_size: int, times: ChunkTimes) -> None:
        """Raise ValueError if the group size does not divide the number of workers."""
        if num_workers % group_size:
            near = [d for d in range(1, num_workers + 1) if num_workers % d == 0]
            raise ValueError(
                f"groups of {group_size} do not divide {num_workers} workers evenly: choose one of "
                f"{', '.join(map(str, near))}"
            )
        super().__init__(num_workers, times)
        self._size = group_size
        self._tried: dict[int, set[int]] = {}

    def next(self, worker: int, now_s: float) -> int | None:
        """Return the worker's next missing chunk in its group's rotation."""
        first = worker - worker % self._size
        tried = self._tried.setdefault(worker, set())
        for step in range(self._size):
            chunk = first + (worker % self._size + step) % self._size
            if chunk in self._open - tried and self._running.may_start(chunk, now_s):
                tried.add(chunk)
                return self._running.start(chunk, worker, now_s)
        return None

    def lost(self, worker: int) -> None:
        """Restart the rotation for the worker that replaces a lost one."""
        self._running.leave(worker)
        self._tried.pop(worker, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueShape:
    """The sizes of one step that a queue scheme serves."""

    num_workers: int
    num_chunks: int
    group: int = 1
    """Workers that share their chunks, in grouped schemes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueScheme:
    """A queue scheme by name; checks, training, `auto`, simulation and benchmarks all read this."""

    form: str
    """How users write it with its number in simulations."""
    is_grouped: bool
    """Whether workers share chunks in groups; a step then has one chunk for each worker."""
    make: Callable[[QueueShape, ChunkTimes], QueueSchedule]
    """Makes one step's schedule; raises ValueError for a shape it cannot serve."""

    def num_chunks(self, num_workers: int, num_microbatches: int) -> int:
        """Return the number of chunks of a step."""
        return num_workers if self.is_grouped else num_microbatches

    def shape(self, num_workers: int, number: int) -> QueueShape:
        """Return the shape for a name's number: the group size, or each worker's chunks."""
        if self.is_grouped:
            return QueueShape(num_workers=num_workers, num_chunks=num_workers, group=number)
        return QueueShape(num_workers=num_workers, num_chunks=num_workers * number)


QUEUE_SCHEMES = {
    "pull": QueueScheme(
        form="pull-K",
        is_grouped=False,
        make=lambda shape, times: PullQueue(
            shape.num_chunks, times, max_ahead=_AHEAD * shape.num_workers
        ),
    ),
    "frc-stream": QueueScheme(
        form="frc-stream-D",
        is_grouped=True,
        make=lambda shape, times: StreamingGroups(shape.num_workers, shape.group, times),
    ),
}
"""The queue schemes; adding one here makes it known everywhere."""
