"""Exact gradients without whole-load redundancy: chunks are handed out one at a time.

Every chunk's sum comes back by itself, the first copy counts, and whoever has nothing left to do
works on what others have not finished. Pure objects: a driver tells them what happened.
"""

from typing import Protocol


class Dispatcher(Protocol):
    """Decides what each idle worker does next, for one gradient."""

    def next(self, worker: int) -> int | None:
        """Return the chunk that an idle worker starts on; None leaves it idle."""
        ...

    def done(self, chunk: int, worker: int) -> bool:
        """Take in that a chunk came back; False if it had come before."""
        ...

    def lost(self, worker: int) -> None:
        """Take in that a worker will bring no more."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has come back."""
        ...


class PullQueue:
    """Any worker does any chunk; late in the round the ones still out are done twice.

    A queue of microbatches with speculative re-execution (backup tasks: Dean and Ghemawat, 2004,
    section 3.6).
    """

    def __init__(self, num_chunks: int) -> None:
        self._todo = list(range(num_chunks))
        self._running: dict[int, set[int]] = {}
        self._left = num_chunks

    def next(self, worker: int) -> int | None:
        """Return the first chunk nobody has; else the one that the fewest others work on."""
        if self._todo:
            chunk = self._todo.pop(0)
            self._running[chunk] = {worker}
            return chunk
        others = {c: who for c, who in self._running.items() if worker not in who}
        if not others:
            return None
        chunk = min(others, key=lambda c: (len(others[c]), c))
        self._running[chunk].add(worker)
        return chunk

    def done(self, chunk: int, worker: int) -> bool:  # noqa: ARG002  (whoever brings it)
        """Take in a chunk."""
        waiting = chunk in self._running or chunk in self._todo
        if not waiting:
            return False
        self._running.pop(chunk, None)
        if chunk in self._todo:  # its first worker was given up, and brought it after all
            self._todo.remove(chunk)
        self._left -= 1
        return True

    def lost(self, worker: int) -> None:
        """Put back what nobody else works on."""
        for chunk, who in list(self._running.items()):
            who.discard(worker)
            if not who:
                del self._running[chunk]
                self._todo.insert(0, chunk)

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has come back."""
        return self._left == 0


class StreamingGroups:
    """Fractional repetition that streams: a group's workers start at different chunks of theirs.

    Worker p of a group of d takes the group's d chunks in the order p, p + 1, ...; without
    stragglers each does one, and any one worker alone could do all.
    """

    def __init__(self, num_workers: int, group_size: int) -> None:
        """Raises ValueError if the groups do not come out even."""
        if num_workers % group_size:
            near = [d for d in range(1, num_workers + 1) if num_workers % d == 0]
            raise ValueError(
                f"groups of {group_size} do not come out even with {num_workers} workers: take "
                f"{', '.join(map(str, near))}"
            )
        self._size = group_size
        self._open = set(range(num_workers))
        self._tried: dict[int, set[int]] = {}

    def next(self, worker: int) -> int | None:
        """Return the worker's next chunk in its group's rotation that has not come back."""
        first = worker - worker % self._size
        tried = self._tried.setdefault(worker, set())
        for step in range(self._size):
            chunk = first + (worker % self._size + step) % self._size
            if chunk in self._open and chunk not in tried:
                tried.add(chunk)
                return chunk
        return None

    def done(self, chunk: int, worker: int) -> bool:  # noqa: ARG002  (whoever brings it)
        """Take in a chunk."""
        if chunk not in self._open:
            return False
        self._open.discard(chunk)
        return True

    def lost(self, worker: int) -> None:
        """Let a worker that takes its place start anew."""
        self._tried.pop(worker, None)

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has come back."""
        return not self._open
