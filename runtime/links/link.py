"""The protocol of a link: an ordered, reliable stream of messages between two named processes."""

from typing import Protocol

from parallel.messages import Message


class Link(Protocol):
    """One end of a link to one peer; `send` may be called from several threads."""

    @property
    def peer(self) -> str:
        """The other side's name, as errors show it."""
        ...

    def send(self, message: Message) -> None:
        """Send one message, blocking at most until the link's deadline.

        Raises:
            PeerLost: the peer closed, died or did not receive the message before the deadline.
            ProtocolError: the message breaks the wire contract.
        """
        ...

    def recv(self, timeout_s: float) -> Message | None:
        """Return the next message, or None if none arrives within `timeout_s` (0: do not wait).

        Messages that arrived before the peer left are returned first.

        Raises:
            PeerLost: the peer closed or died; every later call raises it again.
            ProtocolError: the peer broke the wire contract and the link is closed.
        """
        ...

    def close(self) -> None:
        """End the link and release its threads and sockets; safe to call twice."""
        ...
