"""A `paceline serve` process, and what tests want to know of it."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Queue

import psutil

ROOT = Path(__file__).resolve().parents[3]
_START_S = 120


class ServingProcess:
    """Started with some options; ends with `close`."""

    def __init__(
        self,
        target: Path,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        *,
        module: str = "cluster.cli",
    ) -> None:
        command = [sys.executable, "-m", module, "serve", "--target", str(target)]
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", "--set", "models.threads=1", *options],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.ready = ""
        """The line that tells where it listens."""
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        printed = ""
        while "ready:" not in printed:
            printed = self._lines.get(timeout=_START_S)
        found = re.search(r"on (127\.0\.0\.1:\d+)", printed)
        assert found, printed
        self.ready = printed
        self.address = found.group(1)

    def printed(self) -> list[str]:
        """Return the lines that it has printed since the last call."""
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return lines

    def memory_bytes(self) -> int:
        """Return the memory of the server and of the actors it started."""
        server = psutil.Process(self.process.pid)
        total = 0
        for process in (server, *server.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def close(self) -> None:
        """End the process, if need be by force."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=20)
        self._reader.join(timeout=5)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
