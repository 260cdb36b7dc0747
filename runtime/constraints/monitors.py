"""Monitors of a leader: each in a process of its own, asked by a thread, with a deadline."""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from parallel.decoding.constraint import ConstraintBroken, ConstraintState
from parallel.decoding.monitored import MonitoredState, MonitoredTokens, Words
from runtime.constraints.line_process import LineProcess, NoAnswer
from runtime.constraints.monitor_process import __name__ as _PROCESS
from runtime.errors import InvalidValue

START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 5.0
_MAX_ANSWERS = 1024


class Answering(Protocol):
    """A process that answers texts."""

    def start(self, timeout_s: float) -> object:
        """Start, and return the first line."""
        ...

    def ask(self, question: object, timeout_s: float) -> object:
        """Return the answer to a text; raises NoAnswer without one."""
        ...

    def close(self) -> None:
        """End."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        ...


class TokenTexts(Protocol):
    """What monitors need of a model's tokenizer."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a token adds to a text."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        ...


class PendingAnswer:
    """An answer that arrives in another thread."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._arrived = threading.Event()
        self._words: Words | None = None
        self._problem = ""

    @property
    def left_s(self) -> float:
        """Seconds until its deadline."""
        return self._deadline_s - time.monotonic()

    @property
    def has_failed(self) -> bool:
        """Whether there are no words: they are late, or something was wrong."""
        return bool(self._problem) or not self._arrived.is_set()

    def set(self, words: Words | None, problem: str = "") -> None:
        """Take the words, or what is wrong."""
        self._words, self._problem = words, problem
        self._arrived.set()

    def wait(self) -> Words | None:
        """Return the words; raises ConstraintBroken without any, at the deadline at the latest."""
        if not self._arrived.wait(max(0.0, self.left_s)):
            raise ConstraintBroken(
                f"the monitor {self._name} did not answer within {self._timeout_s:g} s"
            )
        if self._problem:
            raise ConstraintBroken(f"the monitor {self._name} failed: {self._problem}")
        return self._words

    def known(self) -> Words | None:
        """Return the words, or none before they arrive and after a failure."""
        return self._words if self._arrived.is_set() and not self._problem else frozenset()


class Monitor:
    """One monitor: its process, the thread that asks it, and its last answers."""

    def __init__(
        self, name: str, process: Answering, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        """Start the process and its thread; blocks.

        Args:
            name: module:function.
            process: runs it.
            timeout_s: for one answer.

        Raises:
            InvalidValue: there is no such function, or it does not start.
        """
        self._name = name
        self._process = process
        self._timeout_s = timeout_s
        self.trigger = self._started()
        self._answers: OrderedDict[bytes, PendingAnswer] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[bytes, PendingAnswer] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=f"monitor {name}", daemon=True).start()

    def ask(self, text: bytes) -> PendingAnswer:
        """Ask about a text; returns at once. A text that was asked about before is not repeated."""
        with self._lock:
            known = self._answers.get(text)
            if known is None:
                known = self._answers[text] = PendingAnswer(self._name, self._timeout_s)
                self._waiting.put((text, known))
                while len(self._answers) > _MAX_ANSWERS:
                    self._answers.popitem(last=False)
            self._answers.move_to_end(text)
            return known

    def close(self) -> None:
        """End its thread and its process."""
        self._waiting.put(None)

    def _started(self) -> bytes:
        try:
            first = self._process.start(START_TIMEOUT_S)
        except NoAnswer as error:
            raise InvalidValue(f"`monitor` {self._name} did not start: {error}") from error
        if not isinstance(first, dict) or "trigger" not in first:
            problem = first.get("error") if isinstance(first, dict) else first
            self._process.close()
            raise InvalidValue(f"`monitor` {self._name} cannot be used: {problem}")
        return str(first["trigger"]).encode()

    def _serve(self) -> None:
        try:
            while (item := self._waiting.get()) is not None:
                text, answer = item
                if answer.left_s > 0:
                    answer.set(*self._answer(text, answer))
                if answer.has_failed:
                    self._forget(text, answer)
        finally:
            self._process.close()

    def _answer(self, text: bytes, answer: PendingAnswer) -> tuple[Words | None, str]:
        try:
            if not self._process.is_running:
                self._process.start(START_TIMEOUT_S)
            found = self._process.ask(text.decode(errors="replace"), answer.left_s)
        except NoAnswer as error:
            return None, str(error)
        if not isinstance(found, dict) or "words" not in found:
            problem = found.get("error") if isinstance(found, dict) else found
            return None, str(problem)
        words = found["words"]
        return None if words is None else frozenset(word.encode() for word in words), ""

    def _forget(self, text: bytes, answer: PendingAnswer) -> None:
        """Ask again the next time: a failure may be the busy machine's."""
        with self._lock:
            if self._answers.get(text) is answer:
                del self._answers[text]


class MonitorStart(MonitoredState):
    """The state before a prompt."""

    def __init__(
        self, tokens: MonitoredTokens, monitor: Monitor, decode: Callable[[Sequence[int]], str]
    ) -> None:
        """Begin.

        Args:
            tokens: of the model.
            monitor: is asked about prompt and output.
            decode: returns the text of a prompt.
        """
        super().__init__(tokens, monitor.ask, b"")
        self._decode = decode

    def after_prompt(self, prompt_ids: Sequence[int]) -> ConstraintState:
        """Return the state after a prompt."""
        text = self._decode(prompt_ids).encode()
        return MonitoredState(self._tokens, self._ask, text)


def _process_of(name: str) -> Answering:
    return LineProcess(_PROCESS, [name])


class Monitors:
    """The monitors that requests may name."""

    def __init__(
        self,
        names: Sequence[str],
        tokenizer: TokenTexts,
        vocab_size: int,
        *,
        open_process: Callable[[str], Answering] = _process_of,
    ) -> None:
        """Prepare to start them when a request names one.

        Args:
            names: module:function of each.
            tokenizer: the model's.
            vocab_size: of the model, whose last tokens may be in no text.
            open_process: returns what runs a monitor.
        """
        self._names = tuple(names)
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._open_process = open_process
        self._running: dict[str, MonitorStart] = {}
        self._monitors: list[Monitor] = []
        self._lock = threading.Lock()

    def start(self, name: str) -> MonitorStart:
        """Return the state before a prompt; starts the monitor if it has not been; blocks.

        Raises:
            InvalidValue: there is no such monitor, or it cannot be used.
        """
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise InvalidValue(f"`monitor` is {name!r}: the server has {known}")
        with self._lock:
            if name not in self._running:
                monitor = Monitor(name, self._open_process(name))
                self._monitors.append(monitor)
                spelled = [self._tokenizer.token_bytes(one) for one in range(self._vocab_size)]
                tokens = MonitoredTokens(spelled, monitor.trigger)
                self._running[name] = MonitorStart(tokens, monitor, self._tokenizer.decode)
            return self._running[name]

    def close(self) -> None:
        """End all."""
        for monitor in self._monitors:
            monitor.close()
