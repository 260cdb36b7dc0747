"""Signals that ask a long run to stop: the first where nothing is lost, the second at once."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from runtime.training.job.job_lock import JobLock

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_UNWIND_S = 10.0


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a process to stop; `nohup` takes SIGHUP away."""
    hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return _SIGNALS if hung_up else _SIGNALS[:2]


def end_soon(code: int) -> None:
    """Unwind the process, and end it in any case after a few seconds."""
    timer = threading.Timer(_UNWIND_S, os._exit, (code,))
    timer.daemon = True
    timer.start()


class StopSignals:
    """Within it, the first signal is a wish to stop; the next one unwinds and ends the process.

    To be entered after Ray was started, which puts a handler of its own in place.
    """

    def __init__(
        self,
        on_first: Callable[[], None] = lambda: None,
        *,
        end: Callable[[int], None] = end_soon,
    ) -> None:
        """Take what to do at the first signal beside setting `asked`, and at the second."""
        self.asked = False
        self._on_first = on_first
        self._end = end
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals, if this is the thread that gets them."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in stop_signals()}
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (as signals call)
        if self.asked:
            self._end(128 + number)
            raise SystemExit(128 + number)
        self.asked = True
        self._on_first()


class StopEvents:
    """The same for a running event loop: the first signal sets `asked`, the second cuts."""

    def __init__(self, cut: Callable[[], None], *, end: Callable[[int], None] = end_soon) -> None:
        """Listen from now on, on the running loop.

        Args:
            cut: called at the second signal; ends what the first one lets finish.
            end: called then with the exit code; ends the process if it does not end by itself.
        """
        self.asked = asyncio.Event()
        self._cut = cut
        self._end = end
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.asked.is_set():
            self._end(128 + number)
            self._cut()
        self.asked.set()


def cancelling(lock: JobLock, note: Callable[[str], None]) -> StopSignals:
    """Return what lets the first signal cancel a training job, and tells the user."""

    def cancel() -> None:
        lock.cancel()
        note("stopping after this step; a second signal stops at once")

    return StopSignals(cancel)
