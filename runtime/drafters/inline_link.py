"""A drafter in the leader's own thread, behind the same interface as any drafter's link.

A look-up takes a tenth of a millisecond; a link to another process takes ten times as long. The
link also isolates the drafter: whatever it raises ends one call of it, not the leader.
"""

import logging
from collections import deque

from parallel.messages import DraftRequest, Message, Proposal
from runtime.clock import Clock
from runtime.drafters.drafting import Drafter, proposals
from runtime.errors import DrafterError, PeerLost, ProtocolError
from runtime.timeline import Recorder

_LOG = logging.getLogger("paceline.drafter")


class InlineLink:
    """The leader's end: what is sent is answered at once."""

    peer = "inline drafter"

    def __init__(self, drafter: Drafter, clock: Clock, recorder: Recorder | None = None) -> None:
        self._drafter = drafter
        self._recorder = recorder
        self._clock = clock
        self._answers: deque[Proposal] = deque()
        self._closed = False

    def send(self, message: Message) -> None:
        """Draft.

        Raises:
            PeerLost: the link is closed.
            ProtocolError: the message is no draft request.
            DrafterError: the drafter raised an exception; parts that it yielded are received.
        """
        if self._closed:
            raise PeerLost("the inline drafter is closed")
        if not isinstance(message, DraftRequest):
            raise ProtocolError(f"a {type(message).__name__} was sent to a drafter")
        try:
            self._answers.extend(proposals(self._drafter, message, self._clock, self._recorder))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a drafter's SystemExit must not end the leader
            raise DrafterError(f"{type(error).__name__}: {error}") from error

    def recv(self, timeout_s: float) -> Message | None:  # noqa: ARG002  (nothing comes later)
        """Return the next answer, or None: no other process will send one."""
        return self._answers.popleft() if self._answers else None

    def close(self) -> None:
        """End the link; what the drafter raises then is logged."""
        self._closed = True
        try:
            self._drafter.close()
        except KeyboardInterrupt:
            raise
        except BaseException:
            _LOG.exception("the inline drafter failed when it was closed")
