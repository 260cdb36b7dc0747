"""Exact gradients without whole-load redundancy: chunks are handed out one at a time.

Every chunk's sum comes back by itself, the first copy counts, and whoever has nothing left to do
works on what others are late with. Pure objects: a driver tells them what happened, and when.
"""

import math
import statistics
from collections import OrderedDict, deque
from itertools import takewhile
from typing import Protocol

_OVERDUE = 1.25
"""A chunk is late that takes so many times the median."""
_REMEMBERED = 64


class Pace:
    """How long chunks take; one for all gradients of a job."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._overdue_s = 0.0

    def took(self, seconds: float) -> None:
        """Take in how long a chunk took."""
        self._seconds.append(seconds)
        self._overdue_s = _OVERDUE * statistics.median(self._seconds)

    @property
    def overdue_s(self) -> float:
        """After how long a chunk is late; 0 as long as nothing is known."""
        return self._overdue_s


class Dispatcher(Protocol):
    """Decides what each idle worker does next, for one gradient."""

    def next(self, worker: int, now_s: float) -> int | None:
        """Return the chunk that an idle worker starts on; None leaves it idle."""
        ...

    def next_copy_s(self, now_s: float) -> float:
        """Return when a chunk will be late, so that idle workers ask again; infinite if none."""
        ...

    def done(self, chunk: int, worker: int, now_s: float) -> bool:
        """Take in that a chunk came back; False if it had come before."""
        ...

    def lost(self, worker: int) -> None:
        """Take in that a worker will bring no more."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has come back."""
        ...


class _Running:
    """Chunks that are worked on: by whom, since when; in the order in which they will be late."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._since_s: OrderedDict[int, dict[int, float]] = OrderedDict()

    def start(self, chunk: int, worker: int, now_s: float) -> int:
        self._since_s.setdefault(chunk, {})[worker] = now_s
        self._since_s.move_to_end(chunk)
        return chunk

    def end(self, chunk: int, worker: int, now_s: float) -> None:
        """Forget a chunk that came back."""
        since_s = self._since_s.pop(chunk, {}).get(worker)
        if since_s is not None:
            self._pace.took(now_s - since_s)

    def leave(self, worker: int) -> list[int]:
        """Forget a worker; return the chunks that nobody works on now."""
        had = [chunk for chunk, who in self._since_s.items() if who.pop(worker, None) is not None]
        left = sorted(chunk for chunk in had if not self._since_s[chunk])
        for chunk in left:
            del self._since_s[chunk]
        self._since_s = OrderedDict(sorted(self._since_s.items(), key=lambda c: max(c[1].values())))
        return left

    def is_free(self, chunk: int, now_s: float) -> bool:
        """Tell whether nobody works on a chunk, or all who do are late."""
        return chunk not in self._since_s or self._late_s(chunk) <= now_s

    def first_late(self, now_s: float, *, not_of: int) -> int | None:
        """Return the late chunk that the fewest others work on."""
        late = takewhile(lambda chunk: self._late_s(chunk) <= now_s, self._since_s)
        found = ((len(self._since_s[c]), c) for c in late if not_of not in self._since_s[c])
        return min(found, default=(0, None))[1]

    def next_late_s(self, now_s: float) -> float:
        """Return when the next chunk is late, of those that are not yet."""
        later = (at_s for chunk in self._since_s if (at_s := self._late_s(chunk)) > now_s)
        return next(later, math.inf)

    def _late_s(self, chunk: int) -> float:
        return max(self._since_s[chunk].values()) + self._pace.overdue_s


class _Chunks:
    """Chunks of one gradient that have not come back, and who works on them."""

    def __init__(self, num_chunks: int, pace: Pace) -> None:
        self._open = set(range(num_chunks))
        self._running = _Running(pace)

    def next_copy_s(self, now_s: float) -> float:
        """Return when a chunk will be late."""
        return self._running.next_late_s(now_s)

    def done(self, chunk: int, worker: int, now_s: float) -> bool:
        """Take in a chunk."""
        if chunk not in self._open:
            return False
        self._running.end(chunk, worker, now_s)
        self._open.discard(chunk)
        return True

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has come back."""
        return not self._open


class PullQueue(_Chunks):
    """Any worker does any chunk; those that are late are done twice.

    A queue of microbatches with speculative re-execution (backup tasks: Dean and Ghemawat, 2004,
    section 3.6). Nobody copies a chunk that is not late: a copy that is not finished when the
    gradient is complete would hold its worker up in the next one.
    """

    def __init__(self, num_chunks: int, pace: Pace) -> None:
        super().__init__(num_chunks, pace)
        self._todo = list(range(num_chunks))

    def next(self, worker: int, now_s: float) -> int | None:
        """Return the first chunk nobody has; else the late one that the fewest others work on."""
        if self._todo:
            return self._running.start(self._todo.pop(0), worker, now_s)
        late = self._running.first_late(now_s, not_of=worker)
        return None if late is None else self._running.start(late, worker, now_s)

    def done(self, chunk: int, worker: int, now_s: float) -> bool:
        """Take in a chunk."""
        if chunk in self._todo:  # its first worker was given up, and brought it after all
            self._todo.remove(chunk)
        return super().done(chunk, worker, now_s)

    def lost(self, worker: int) -> None:
        """Put back what nobody else works on."""
        self._todo = self._running.leave(worker) + self._todo


class StreamingGroups(_Chunks):
    """Fractional repetition that streams: a group's workers start at different chunks of theirs.

    Worker p of a group of d takes the group's d chunks in the order p, p + 1, ..., after its own
    those that are late; without stragglers each does one, and any one worker alone could do all.
    """

    def __init__(self, num_workers: int, group_size: int, pace: Pace) -> None:
        """Raises ValueError if the groups do not come out even."""
        if num_workers % group_size:
            near = [d for d in range(1, num_workers + 1) if num_workers % d == 0]
            raise ValueError(
                f"groups of {group_size} do not come out even with {num_workers} workers: take "
                f"{', '.join(map(str, near))}"
            )
        super().__init__(num_workers, pace)
        self._size = group_size
        self._tried: dict[int, set[int]] = {}

    def next(self, worker: int, now_s: float) -> int | None:
        """Return the worker's next chunk in its group's rotation that has not come back."""
        first = worker - worker % self._size
        tried = self._tried.setdefault(worker, set())
        for step in range(self._size):
            chunk = first + (worker % self._size + step) % self._size
            if chunk in self._open - tried and self._running.is_free(chunk, now_s):
                tried.add(chunk)
                return self._running.start(chunk, worker, now_s)
        return None

    def lost(self, worker: int) -> None:
        """Let a worker that takes its place start anew."""
        self._running.leave(worker)
        self._tried.pop(worker, None)
