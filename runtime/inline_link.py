"""A drafter in the leader's own thread, behind the link that any drafter has.

A look-up takes a tenth of a millisecond; a link to another process takes ten times as long.
"""

from collections import deque

from parallel.messages import DraftRequest, Message, Proposal
from runtime.clock import Clock
from runtime.drafting import Drafter
from runtime.errors import PeerLost, ProtocolError
from runtime.timeline import Phase, Recorder


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
        """Draft; raises PeerLost once closed, ProtocolError for what is no draft request."""
        if self._closed:
            raise PeerLost("the inline drafter is closed")
        if not isinstance(message, DraftRequest):
            raise ProtocolError(f"a {type(message).__name__} was sent to a drafter")
        start_s = self._clock.now_s()
        for part in self._drafter.answer(message):
            self._answers.append(
                Proposal(
                    round=message.round,
                    items=part.items,
                    draft_s=self._clock.now_s() - start_s,
                    partial=part.partial,
                    num_steps=part.num_steps,
                )
            )
            if self._recorder is not None and not part.partial:
                now_s = self._clock.now_s()
                self._recorder.record(Phase.DRAFT, start_s, now_s, part.num_steps)

    def recv(self, timeout_s: float) -> Message | None:  # noqa: ARG002  (nothing comes later)
        """Return the next answer, or None: there is nobody to wait for."""
        return self._answers.popleft() if self._answers else None

    def close(self) -> None:
        """End the link."""
        self._closed = True
        self._drafter.close()
