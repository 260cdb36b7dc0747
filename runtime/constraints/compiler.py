"""Compile constraints beside the rounds: in threads, once for all requests that state the same.

A constraint is compiled by a process that may die (`screening.py`), and then here.
"""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Protocol

from parallel.decoding.constraint import ConstraintState
from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.constraints.compile_messages import with_place
from runtime.constraints.grammar_text import grammar_text
from runtime.constraints.model_tokens import ModelTokens
from runtime.constraints.monitors import Monitors
from runtime.constraints.opened_tokens import OpenedTokens
from runtime.constraints.screening import Screening, TooLarge
from runtime.errors import ConfigError, InvalidValue

_LOG = logging.getLogger("paceline.constraints")
_THREADS = 2
"""Constraints compiled side by side: one that takes long holds up only one of them."""
_STACK_BYTES = 64 << 20  # address space; several times what the screening process may use
_MAX_KNOWN = 128
_MAX_WAITING = 256

Compiled = ConstraintState | InvalidValue
"""The state at the start of an output, or why there is none."""


class Constraints(Protocol):
    """Where the leader gets constraints from."""

    def compile(self, spec: ConstraintSpec, done: Callable[[Compiled], None]) -> None:
        """Compile a constraint and call `done`, from any thread, at once if it is known."""
        ...

    def close(self) -> None:
        """End what compiles."""
        ...


class ConstraintCompiler:
    """Compiles constraints for one tokenizer, and remembers the last ones by their digest."""

    def __init__(
        self, read_tokens: Callable[[], ModelTokens], monitors: Monitors | None = None
    ) -> None:
        """Prepare to compile.

        Args:
            read_tokens: returns the model's tokens; is called once, in a thread, when the first
                constraint arrives.
            monitors: the engine's, by name.
        """
        self._read_tokens = read_tokens
        self._monitors = monitors
        self._known: OrderedDict[bytes, Compiled] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._tokens: ModelTokens | None = None
        self._opened: OpenedTokens | None = None
        self._waiting: queue.SimpleQueue[
            tuple[ConstraintSpec, Callable[[Compiled], None]] | None
        ] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def compile(self, spec: ConstraintSpec, done: Callable[[Compiled], None]) -> None:
        """Call `done` with the compiled constraint, or with what is wrong with it."""
        known = self._look_up(spec)
        if known is not None:
            done(known)
        elif self._waiting.qsize() >= _MAX_WAITING:
            done(InvalidValue(f"{_MAX_WAITING} constraints wait to be compiled: try again later"))
        else:
            self._start_threads()
            self._waiting.put((spec, done))

    def close(self) -> None:
        """End the threads after what they compile now."""
        for _ in self._threads:
            self._waiting.put(None)
        if self._monitors is not None:
            self._monitors.close()

    def _look_up(self, spec: ConstraintSpec) -> Compiled | None:
        digest = _digest(spec)
        with self._lock:
            known = self._known.get(digest)
            if known is not None:
                self._known.move_to_end(digest)
            return known

    def _start_threads(self) -> None:
        with self._lock:
            if self._threads:
                return
            usual = threading.stack_size(_STACK_BYTES)
            try:
                for number in range(_THREADS):
                    thread = threading.Thread(
                        target=self._serve, name=f"constraints-{number}", daemon=True
                    )
                    thread.start()
                    self._threads.append(thread)
            finally:
                threading.stack_size(usual)

    def _serve(self) -> None:
        screening = Screening()
        try:
            while (item := self._waiting.get()) is not None:
                spec, done = item
                done(self._look_up(spec) or self._compiled(spec, screening))
        finally:
            screening.close()

    def _compiled(self, spec: ConstraintSpec, screening: Screening) -> Compiled:
        found: Compiled
        if spec.kind is ConstraintKind.MONITOR:
            return self._monitor(spec.text)
        try:
            grammar = grammar_text(spec)
            tokens = self._model_tokens()
            screening.check(grammar, tokens.text)
            found = self._opened_tokens(tokens).start(grammar)
        except ValueError as error:
            text = with_place(spec, str(error))
            found = InvalidValue(f"`{spec.kind}` cannot be used as a constraint: {text}")
            if isinstance(error, TooLarge):  # on a busy machine; another time it may fit
                return found
        except Exception as error:  # the thread must serve the next one
            _LOG.exception("a constraint could not be compiled")
            return InvalidValue(f"`{spec.kind}` cannot be used as a constraint: {error!r}")
        with self._lock:
            self._known[_digest(spec)] = found
            while len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return found

    def _monitor(self, name: str) -> Compiled:
        try:
            if self._monitors is None:
                raise InvalidValue(f"`monitor` is {name!r}: this engine has none")
            return self._monitors.start(name)
        except InvalidValue as error:
            return error

    def _model_tokens(self) -> ModelTokens:
        with self._reading:
            if self._tokens is None:
                try:
                    self._tokens = self._read_tokens()
                except ConfigError as error:
                    text = f"the model's tokenizer cannot be read: {error}"
                    raise ValueError(text) from error
            return self._tokens

    def _opened_tokens(self, tokens: ModelTokens) -> OpenedTokens:
        with self._reading:
            if self._opened is None:
                self._opened = OpenedTokens(tokens)
            return self._opened


def _digest(spec: ConstraintSpec) -> bytes:
    parts = repr((spec.kind.value, spec.text, spec.choices))
    return blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).digest()
