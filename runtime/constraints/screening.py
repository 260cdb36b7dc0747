"""Compile a grammar in a process that may die, before the leader compiles it.

The library compiles recursively: a few kilobytes of a hostile grammar overflow the stack, and
others take half a minute. Neither may happen to the process that serves all requests.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from dataclasses import asdict

from parallel.errors import PacelineError
from runtime.constraints.compilation import TokenizerText
from runtime.constraints.screening_process import __name__ as _PROCESS
from runtime.files.strict_json import parse_json

START_TIMEOUT_S = 60.0
COMPILE_TIMEOUT_S = 5.0


class TooLarge(PacelineError, ValueError):
    """A grammar cannot be compiled within the limits."""


class Screening:
    """One screening process, which is started when it is needed and again after each death.

    Used by one thread at a time.
    """

    def __init__(self) -> None:
        self.compile_timeout_s = COMPILE_TIMEOUT_S
        """Seconds that one grammar may take."""
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, grammar: str, tokenizer: TokenizerText) -> None:
        """Return once the grammar has been compiled in the other process.

        Args:
            grammar: what to compile.
            tokenizer: always the same one.

        Raises:
            TooLarge: it takes too much time, stack or memory.
            ValueError: it is invalid, or the tokenizer cannot be used; says why.
        """
        if self._process is None or self._process.poll() is not None:
            self._start(tokenizer)
        problem = self._ask(grammar, self.compile_timeout_s)
        if problem:
            raise ValueError(problem)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _start(self, tokenizer: TokenizerText) -> None:
        self.close()
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths},
        )
        try:
            problem = self._ask(asdict(tokenizer), START_TIMEOUT_S)
        except TooLarge as error:
            raise ValueError("the process that compiles constraints did not start") from error
        if problem:
            self.close()
            raise ValueError(f"the model's tokenizer does not support constraints: {problem}")

    def _ask(self, question: object, timeout_s: float) -> str:
        """Send a line and return the answer; raises TooLarge, and ends the process, without one."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = self._line(process, timeout_s)
        except OSError:  # it died before it read the line
            line = b""
        if line is None:
            self.close()
            raise TooLarge(f"compiling it takes more than {timeout_s:g} s")
        if not line.endswith(b"\n"):
            self.close()
            raise TooLarge("compiling it takes too much stack or memory")
        answer: str = parse_json(line.decode(), "an answer of the screening process")
        return answer

    def _line(self, process: "subprocess.Popen[bytes]", timeout_s: float) -> bytes | None:
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
