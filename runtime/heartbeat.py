"""What a rank does now and since when, for whoever watches it; and a watchdog with stack dumps."""

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
_TICKS = 4  # looks of the watchdog within its limit
IDLE, DRAFTING, ENDED = "idle", "drafting", "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A rank's answer to the question how it is."""

    pid: int
    state: str
    """starting, idle, prefill, drafting, verifying, following or ended."""
    num_steps: int
    """Steps it has begun so far."""
    step_age_s: float
    """Seconds since the last one began; an idle rank makes one every few seconds."""
    stacks: str = ""
    """Where its threads were when a step last took too long."""


class Pulse:
    """Written by the thread that works, read by any."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._state = "starting"
        self._num_steps = 0
        self._since_s = now_s()
        self.stacks = ""

    def at(self, state: str) -> None:
        """Note that a step of this kind begins."""
        self._state, self._since_s = state, self._now_s()
        self._num_steps += 1

    def beat(self) -> Beat:
        """Return what the rank does now."""
        return Beat(
            pid=os.getpid(),
            state=self._state,
            num_steps=self._num_steps,
            step_age_s=self._now_s() - self._since_s,
            stacks=self.stacks,
        )


class Watchdog:
    """Says where a rank is when a step takes too long.

    Two ways, because a step may hang in two: a thread of ours sees one that waits, and the
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
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(self._limit_s)
        if self._errors is not None:
            faulthandler.cancel_dump_traceback_later()

    def look(self) -> None:
        """Tell of a step that takes too long, once."""
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
            if self._errors is not None:  # it fires where this thread does not come here again
                faulthandler.dump_traceback_later(self._limit_s + every_s, file=self._errors)


def stacks_of_all_threads() -> str:
    """Return the stacks of this process's threads, by their names."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)
