"""llama.cpp by its Python binding, in a process and an environment of its own."""

import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.baselines.baseline_run import BaselineRun
from runtime.errors import ConfigError, PeerError, PeerLost, PeerTimeout
from runtime.files.strict_json import parse_object

_WORKER = Path(__file__).with_name("llama_cpp_worker.py")
_ANSWER_S = 600.0
_END_S = 10.0
_SHOWN = 2000
_NAME = "the process of llama.cpp"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppSettings:
    """What llama.cpp runs, and how."""

    model: str
    """The GGUF file."""
    threads: int
    context: int
    """Tokens of the longest sequence."""
    lookup: int | None = None
    """Tokens that the binding's prompt lookup drafts; None is plain decoding."""


class LlamaCpp:
    """A running llama.cpp; use it as a context manager so that its process ends."""

    def __init__(
        self, python: Path, settings: LlamaCppSettings, *, wait_s: float = _ANSWER_S
    ) -> None:
        """Start the process; `load` waits for its model.

        Args:
            python: of an environment that has llama-cpp-python.
            settings: what it runs.
            wait_s: the longest wait for an answer.

        Raises:
            ConfigError: there is no such Python.
        """
        self._python = python
        self._settings = settings
        self._wait_s = wait_s
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        try:
            self._process = subprocess.Popen(
                [python, _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
            )
        except OSError as error:
            self._errors.close()
            raise ConfigError(
                f"`llama_python` {python} cannot be run ({error.strerror}): run make llama-cpp, or "
                "name a Python that has llama-cpp-python"
            ) from error
        self._reader = threading.Thread(target=self._read, name="llama.cpp", daemon=True)
        self._reader.start()

    def __enter__(self) -> "LlamaCpp":
        """Return the engine."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def load(self) -> dict[str, object]:
        """Load the model and return the versions of what runs it; blocks.

        Raises:
            ConfigError: the environment lacks llama-cpp-python, or it cannot read the model.
            PeerTimeout: it takes too long.
        """
        try:
            return self._ask("load", asdict(self._settings))
        except _WorkerError as error:
            raise ConfigError(f"llama.cpp cannot load {self._settings.model}: {error}") from error
        except PeerLost as error:
            raise ConfigError(
                f"`llama_python` {self._python} does not run llama.cpp: run make llama-cpp, or "
                f"name a Python that has llama-cpp-python; {error}"
            ) from error

    def generate(self, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> BaselineRun:
        """Generate exactly `max_tokens` greedy tokens for each prompt; blocks.

        Raises:
            PeerError: the process ended, failed, or takes too long.
        """
        answers = [
            self._ask("generate", {"prompt_ids": prompt, "max_tokens": max_tokens})
            for prompt in prompts
        ]
        return BaselineRun(
            token_ids=tuple(tuple(answer["token_ids"]) for answer in answers),
            first_s=tuple(answer["first_s"] for answer in answers),
            wall_s=sum(answer["wall_s"] for answer in answers),
        )

    def logits_after(self, prefix: Sequence[int], token_ids: Sequence[int]) -> tuple[float, ...]:
        """Return the logits of some tokens after a prefix; raises as `generate`."""
        asked = {"prefix": list(prefix), "token_ids": list(token_ids)}
        return tuple(self._ask("logits_after", asked)["logits"])

    def close(self) -> None:
        """End the process: it ends with its input; killed where it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended
            self._process.stdin.close()
        self._end()
        self._reader.join(_END_S)
        self._process.stdout.close()
        self._errors.close()

    def _ask(self, verb: str, fields: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": verb, **fields}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise PeerLost(self._last_words()) from error
        try:
            line = self._lines.get(timeout=self._wait_s)
        except queue.Empty as error:
            raise PeerTimeout(f"{_NAME} did not answer within {self._wait_s:.0f} s") from error
        if line is None:
            raise PeerLost(self._last_words())
        answer = parse_object(line, f"an answer of {_NAME}")
        if "error" in answer:
            raise _WorkerError(f"{_NAME} failed: {answer['error']}")
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _end(self) -> int:
        """Wait until the process has ended, kill it if it does not, and return its exit code."""
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(_END_S)

    def _last_words(self) -> str:
        code = self._end()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip()[-_SHOWN:]
        return f"{_NAME} ended with exit code {code}: {said or 'it printed nothing'}"


class _WorkerError(PeerError):
    """The worker answered with an error; it still runs."""
