"""Compile a grammar in a process that may die, before the leader compiles it.

The library compiles recursively: a few kilobytes of a hostile grammar overflow the stack, and
others take half a minute. Neither may happen to the process that serves all requests.
"""

from dataclasses import asdict

from parallel.errors import PacelineError
from runtime.constraints.compilation import TokenizerText
from runtime.constraints.line_process import LateAnswer, LineProcess, NoAnswer
from runtime.constraints.screening_process import __name__ as _PROCESS

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
        self._process = LineProcess(_PROCESS, shows_errors=False)

    def check(self, grammar: str, tokenizer: TokenizerText) -> None:
        """Return once the grammar has been compiled in the other process.

        Args:
            grammar: what to compile.
            tokenizer: always the same one.

        Raises:
            TooLarge: it takes too much time, stack or memory.
            ValueError: it is invalid, or the tokenizer cannot be used; says why.
        """
        if not self._process.is_running:
            self._start(tokenizer)
        try:
            problem = self._process.ask(grammar, self.compile_timeout_s)
        except LateAnswer as error:
            raise TooLarge(f"compiling it takes more than {self.compile_timeout_s:g} s") from error
        except NoAnswer as error:
            raise TooLarge("compiling it takes too much stack or memory") from error
        if problem:
            raise ValueError(problem)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _start(self, tokenizer: TokenizerText) -> None:
        self._process.spawn()
        try:
            problem = self._process.ask(asdict(tokenizer), START_TIMEOUT_S)
        except NoAnswer as error:
            raise ValueError("the process that compiles constraints did not start") from error
        if problem:
            self.close()
            raise ValueError(f"the model's tokenizer does not support constraints: {problem}")
