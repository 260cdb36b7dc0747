"""A process that answers each line of JSON with a line of JSON, and is ended when it is late."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence

from runtime.errors import PacelineError
from runtime.files.strict_json import parse_json


class NoAnswer(PacelineError):
    """The process has ended without an answer."""


class LateAnswer(NoAnswer):
    """The process has not answered in time."""


class LineProcess:
    """A Python module in a process of its own; used by one thread at a time."""

    def __init__(
        self, module: str, arguments: Sequence[str] = (), *, shows_errors: bool = True
    ) -> None:
        """Prepare to start it.

        Args:
            module: to run.
            arguments: of its command line.
            shows_errors: whether its stderr is that of this process; otherwise it is dropped.
        """
        self._command = [sys.executable, "-m", module, *arguments]
        self._stderr = None if shows_errors else subprocess.DEVNULL
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float) -> object:
        """Start it, again if it has ended, and return its first line, which nothing asks for.

        Raises:
            NoAnswer: it ended, or has not written one in time.
        """
        self.spawn()
        return self._answer(timeout_s)

    def spawn(self) -> None:
        """Start it, again if it has ended, without waiting for a line."""
        self.close()
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | {"PYTHONPATH": paths},
        )

    def ask(self, question: object, timeout_s: float) -> object:
        """Send a line and return the answer; without one, the process is ended.

        Raises:
            NoAnswer: it ended, or has not answered in time.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self.close()
            raise NoAnswer("its process has ended") from error
        return self._answer(timeout_s)

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _answer(self, timeout_s: float) -> object:
        assert self._process is not None
        line = _line(self._process, timeout_s)
        if line is not None and line.endswith(b"\n"):
            return parse_json(line.decode(), "its answer")
        self.close()
        if line is None:
            raise LateAnswer(f"it did not answer within {timeout_s:g} s")
        raise NoAnswer("its process has ended")


def _line(process: "subprocess.Popen[bytes]", timeout_s: float) -> bytes | None:
    """Return the next line, a part of one if the process ended, or None after the time."""
    assert process.stdout is not None
    found, deadline_s = b"", time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not found.endswith(b"\n"):
            if not selector.select(max(0.0, deadline_s - time.monotonic())):
                return None
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return found
            found += piece
    return found
