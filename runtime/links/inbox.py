"""What a link's receiving thread hands to its reader: messages, then at most one last error."""

import queue
import time

from parallel.messages import Message
from runtime.errors import PacelineError

_AWAKE_S = 0.002
"""A reader yields the processor over and over for so long before it sleeps: to wake a sleeping
thread of a virtual machine costs about as much as a local exchange (0.1 to 0.2 ms, 2026-11-23)."""


class Inbox:
    """A queue of messages that ends with an error; one reader, any number of writers."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Message | PacelineError] = queue.SimpleQueue()
        self._end: PacelineError | None = None

    @property
    def end(self) -> PacelineError | None:
        """Why no more messages come; None while they still may."""
        return self._end

    def put(self, message: Message) -> None:
        """Add a message."""
        self._items.put(message)

    def fail(self, error: PacelineError) -> None:
        """End the queue with `error`; only the first end counts."""
        if self._end is None:
            self._end = error
            self._items.put(error)

    def get(self, timeout_s: float) -> Message | None:
        """Return the next message or None after `timeout_s`; raise the end once it is reached."""
        item = self._next(timeout_s)
        if isinstance(item, PacelineError):
            self._items.put(item)  # a later call finds it again
            raise item
        return item

    def _next(self, timeout_s: float) -> Message | PacelineError | None:
        asleep_s = time.perf_counter() + min(timeout_s, _AWAKE_S)
        while self._items.empty() and time.perf_counter() < asleep_s:
            time.sleep(0)  # lets every other thread go first
        try:
            if timeout_s > _AWAKE_S:
                return self._items.get(timeout=timeout_s - _AWAKE_S)
            return self._items.get_nowait()
        except queue.Empty:
            return None
