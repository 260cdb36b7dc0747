"""The queue from a link's receiving thread to its reader: messages, then at most one error."""

import queue

from parallel.messages import Message
from runtime.errors import PacelineError


class Inbox:
    """A queue of messages that ends with an error; it has one reader and any number of writers."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Message | PacelineError] = queue.SimpleQueue()
        self._end: PacelineError | None = None

    @property
    def end(self) -> PacelineError | None:
        """The error that ended the queue; None while it is open."""
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
        """Return the next message or None after `timeout_s`; raise the final error once it is
        reached."""
        try:
            item = self._items.get(block=timeout_s > 0, timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, PacelineError):
            self._items.put(item)  # a later call raises it again
            raise item
        return item
