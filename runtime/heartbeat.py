"""Heartbeats: a rank's current step and its age; and a watchdog that dumps stacks."""

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

_LOG = logging.getLogger("paceline.pulse")
_TICKS = 4  # checks of the watchdog within its limit
IDLE, DRAFTING, ENDED = "idle", "drafting", "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A rank's heartbeat."""

    pid: int
    state: str
    """starting, idle, prefill, drafting, verifying, following or ended."""
    num_steps: int
    """Number of steps begun so far."""
    step_age_s: float
    """Seconds since the last step began; an idle rank begins one every few seconds."""
    stacks: str = ""
    """Stacks of its threads when a step last took too long."""


class Pulse:
    """The current step; its working thread writes it, any thread reads it."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._state = "starting"
        self._num_steps = 0
        self._since_s = now_s()
        self.stacks = ""

    def at(self, state: str) -> None:
        """Record the begin of a step of this kind."""
        self._state, self._since_s = state, self._now_s()
        self._num_steps += 1

    def beat(self) -> Beat:
        """Return the heartbeat of the current step."""
        return Beat(
            pid=os.getpid(),
            state=self._state,
            num_steps=self._num_steps,
            step_age_s=self._now_s() - self._since_s,
            stacks=self.stacks,
        )


class Watchdog:
    """Dumps a rank's stacks when a step takes too long. A thread detects a step that waits; the
    interpreter's own timer writes to standard error even while native code holds the interpreter.
    """

    def __init__(self, pulse: Pulse, *, limit_s: float, errors: TextIO | None = None) -> None:
        self._pulse = pulse
        self._limit_s = limit_s
        self._errors = errors
        self._told = -1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(self._limit_s)
        if self._errors is not None:
            faulthandler.cancel_dump_traceback_later()

    def look(self) -> None:
        """Report a step that takes too long, once."""
        beat = self._pulse.beat()
        late = beat.step_age_s > self._limit_s and beat.state != ENDED
        if late and beat.num_steps != self._told:
            self._told = beat.num_steps
            self._pulse.stacks = stacks_of_all_threads()
            _LOG.error(
                "process %d has been %s for %.1f s:\n%s",
                beat.pid,
                beat.state,
                beat.step_age_s,
                self._pulse.stacks,
            )

    def _run(self) -> None:
        every_s = self._limit_s / _TICKS
        while not self._closing.wait(every_s):
            self.look()
            if self._errors is not None:  # it fires if this thread does not get here again
                faulthandler.dump_traceback_later(self._limit_s + every_s, file=self._errors)


def stacks_of_all_threads() -> str:
    """Return the stacks of this process's threads, each under its name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)
