"""A signal that asks a long run to stop where nothing is lost."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from runtime.training.job_lock import JobLock

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Within it, the first SIGTERM or interrupt is a wish to stop; the next ends the process.

    To be entered after Ray was started, which puts a handler of its own in place.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        """Take what is to be done at the first signal, beside setting `asked`."""
        self.asked = False
        self._on_first = on_first
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals, if this is the thread that gets them."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
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
            raise SystemExit(128 + number)
        self.asked = True
        self._on_first()


def cancelling(lock: JobLock, note: Callable[[str], None]) -> StopSignals:
    """Return what lets the first signal cancel a training job, and tells the user."""

    def cancel() -> None:
        lock.cancel()
        note("stopping after this step; a second signal stops at once")

    return StopSignals(cancel)
