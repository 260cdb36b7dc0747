"""Signals that stop a long run: the first gracefully, the second at once."""

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
    """Return the signals that stop a process; `nohup` removes SIGHUP."""
    hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return _SIGNALS if hung_up else _SIGNALS[:2]


def end_soon(code: int) -> None:
    """End the process after a few seconds, if it has not unwound until then."""
    timer = threading.Timer(_UNWIND_S, os._exit, (code,))
    timer.daemon = True
    timer.start()


class StopSignals:
    """A context in which the first signal requests a stop, and the second ends the process.

    Enter it after Ray has started, because Ray installs a handler of its own.
    """

    def __init__(
        self,
        on_first: Callable[[], None] = lambda: None,
        *,
        end: Callable[[int], None] = end_soon,
    ) -> None:
        """Call `on_first` at the first signal, which also sets `asked`, and `end` at the second."""
        self.asked = False
        self._on_first = on_first
        self._end = end
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers, if this thread receives signals."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in stop_signals()}
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (as signals call)
        if self.asked:
            self._end(128 + number)
            raise SystemExit(128 + number)
        self.asked = True
        self._on_first()


class StopEvents:
    """The same for an event loop: the first signal sets `asked`, the second calls `cut`."""

    def __init__(self, cut: Callable[[], None], *, end: Callable[[int], None] = end_soon) -> None:
        """Install handlers on the running loop.

        Args:
            cut: called at the second signal; ends the work that the first one lets finish.
            end: called then with the exit code; ends the process if it does not end by itself.
        """
        self.asked = asyncio.Event()
        self._cut = cut
        self._end = end
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._receive, number)

    def _receive(self, number: signal.Signals) -> None:
        if self.asked.is_set():
            self._end(128 + number)
            self._cut()
        self.asked.set()


def cancelling(lock: JobLock, note: Callable[[str], None]) -> StopSignals:
    """Return a context in which the first signal cancels a training job."""

    def cancel() -> None:
        lock.cancel()
        note("stopping after this step; a second signal stops at once")

    return StopSignals(cancel)
