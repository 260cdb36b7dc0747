"""Writes a job's states beside the training: one at a time, in a thread.

An optimizer replaces its vectors and never changes them, so a state that is being written costs no
copy.
"""

import threading
from collections.abc import Callable
from dataclasses import replace

from parallel.training.adamw import AdamW
from runtime.clock import Clock


class StateWriter:
    """Decides when a state is due, and writes it."""

    def __init__(
        self,
        write: Callable[[AdamW], None],
        clock: Clock,
        *,
        every: int,
        every_s: float | None,
        written_step: int,
    ) -> None:
        """Write states of a job.

        Args:
            write: writes a state; may block.
            clock: times the states.
            every: steps between two states.
            every_s: seconds after which a state is due in any case; None is no such limit.
            written_step: the step of the state that is written already.
        """
        self._write = write
        self._clock = clock
        self._every = every
        self._every_s = every_s
        self._started_step = written_step
        self._started_s = clock.now_s()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def after_step(self, optimizer: AdamW) -> None:
        """Start to write the state if it is due.

        A state that becomes due while another one is being written follows at a later step.

        Raises:
            OSError: an earlier state could not be written.
        """
        if self._thread is not None and not self._thread.is_alive():
            self._join()
        now_s = self._clock.now_s()
        passed = optimizer.step // self._every > self._started_step // self._every
        late = self._every_s is not None and now_s - self._started_s >= self._every_s
        if self._thread is None and (passed or late):
            self._start(optimizer)

    def finish(self, optimizer: AdamW) -> None:
        """Wait until the last state is written.

        Raises:
            OSError: it could not be written.
        """
        self._join()
        if optimizer.step != self._started_step:
            self._start(optimizer)
            self._join()

    def wait(self) -> None:
        """Wait for a state that is being written; whether it succeeds does not matter any more."""
        if self._thread is not None:
            self._thread.join()

    def _start(self, optimizer: AdamW) -> None:
        state = replace(optimizer)
        self._thread = threading.Thread(target=self._run, args=(state,), name="state-writer")
        self._thread.start()
        self._started_step, self._started_s = state.step, self._clock.now_s()

    def _run(self, state: AdamW) -> None:
        try:
            self._write(state)
        except BaseException as error:  # raised again in the thread that trains
            self._failure = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            self._started_step = -1  # what could not be written is still due
            raise failure
