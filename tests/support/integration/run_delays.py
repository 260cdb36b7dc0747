"""How long processes were ready to run and did not: what the machine's load explains of a gap."""

import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

_EVERY_S = 0.2
_Reading = tuple[float, int]
"""When, and nanoseconds in the queue of a processor until then."""


class RunDelays:
    """Reads the scheduler's count of each thread of some processes, until it is closed."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        """Begin to read.

        Args:
            pids: asked each time, for processes come and go.
        """
        self._pids = pids
        self._readings: dict[tuple[int, int], list[_Reading]] = defaultdict(list)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join()

    def within(self, start_s: float, end_s: float) -> float:
        """Return the seconds that a token's way through the processes stood in queues, at most.

        In each process one thread at a time has the token, so its worst thread counts.
        """
        worst: dict[int, float] = defaultdict(float)
        for (pid, _), readings in list(self._readings.items()):
            first = max(0, bisect_left(readings, (start_s, -1)) - 1)
            last = min(len(readings) - 1, bisect_right(readings, (end_s, 1 << 62)))
            delay_s = (readings[last][1] - readings[first][1]) / 1e9
            worst[pid] = max(worst[pid], delay_s)
        return sum(worst.values())

    def _run(self) -> None:
        while not self._closing.wait(_EVERY_S):
            for pid in self._pids():
                self._read(pid)

    def _read(self, pid: int) -> None:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                _, delay_ns, _ = (task / "schedstat").read_text(encoding="ascii").split()
                self._readings[pid, int(task.name)].append((time.monotonic(), int(delay_ns)))
        except OSError:
            return  # the thread or the process has ended, or the kernel does not count
