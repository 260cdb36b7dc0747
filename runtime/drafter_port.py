"""The leader's side of a drafter's link: ask, wait within a budget, never hang on it."""

import logging

from parallel.messages import DraftRequest, Hello, Proposal
from runtime.clock import Clock
from runtime.errors import PacelineError, PeerError, ProtocolError
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.leader")
_RETRY_BUDGETS = 20  # a lost message must not switch the drafter off for good


class DrafterPort:
    """A drafter that is present, gone, or behind (it let a wait budget pass).

    While it is behind it is asked for nothing new, so a stalled drafter costs the target one wait
    budget and then nothing, until it has caught up.
    """

    def __init__(
        self, number: int, hello: Hello, link: Link, clock: Clock, *, wait_budget_s: float
    ) -> None:
        self.number = number
        """Its own among all drafters that ever attached; 0 is none."""
        self._clock = clock
        self._link: Link | None = link
        self._round = 0
        self._answered = 0
        self._missed = 0
        self._asked_s = 0.0
        self.wait_budget_s = wait_budget_s
        """Longest wait for a draft that is due."""
        self.num_successors = hello.num_successors
        """Best tokens after each scored one that it wants to hear of."""
        self.grows_trees = hello.grows_trees
        """Whether it proposes trees, with how likely each token is kept."""
        self.name = hello.name
        self.closed: list[int] = []
        """Requests that it may forget, and has not been told yet."""
        self.last_opening = 0
        """Round in which it was last told of a request it did not know."""
        self.is_lost = False
        """Whether it vanished."""

    @property
    def is_attached(self) -> bool:
        """Whether its link is open, as far as is known."""
        return self._link is not None

    @property
    def is_behind(self) -> bool:
        """Whether it let a wait budget pass and has not caught up."""
        return self._missed > self._answered

    @property
    def ready(self) -> bool:
        """Whether to ask it now: it is not behind, or so far that a message may have been lost."""
        while self.is_behind and self.receive(0.0) is not None:
            pass  # answers that are too late only tell that it is catching up
        if self._link is None:
            return False
        overdue_s = self._clock.now_s() - self._asked_s
        return not self.is_behind or overdue_s > _RETRY_BUDGETS * self.wait_budget_s

    @property
    def due(self) -> bool:
        """Whether it owes an answer; one that is gone owes none."""
        return self._link is not None and self._answered < self._round

    def ask(self, request: DraftRequest) -> None:
        """Send one round's work; a drafter that turns out to be gone is detached."""
        if self._link is None:
            return
        self._round = request.round
        self._asked_s = self._clock.now_s()
        try:
            self._link.send(request)
        except PeerError as error:
            self._detach(error)

    def receive(self, timeout_s: float) -> Proposal | None:
        """Return the next part of an answer; None if none comes in time or the drafter is gone."""
        if self._link is None:
            return None
        try:
            message = self._link.recv(timeout_s)
        except (PeerError, ProtocolError) as error:
            self._detach(error)
            return None
        if message is None:
            return None
        if not isinstance(message, Proposal):
            self._detach(ProtocolError(f"a drafter sent a {type(message).__name__}"))
            return None
        if not message.partial:
            self._answered = max(self._answered, message.round)
        return message

    def miss(self) -> None:
        """Record that what was asked for is not waited for any longer."""
        if self._link is not None:
            _LOG.warning("drafter did not answer within %.2f s", self.wait_budget_s)
        self._missed = self._round

    def close(self) -> None:
        """Let the drafter go."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _detach(self, error: PacelineError) -> None:
        _LOG.warning("drafter lost, going on without it: %s", error)
        self.close()
        self.is_lost = True
