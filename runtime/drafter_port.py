"""The leader's side of the drafter link: ask, wait within a budget, never hang on it."""

import logging

from parallel.messages import DraftRequest, Hello, Proposal
from runtime.clock import Clock
from runtime.errors import PeerError
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.leader")
_RETRY_BUDGETS = 20  # a lost message must not switch the drafter off for good


class DrafterPort:
    """A drafter that may be absent, present, or behind (its answer to an older round is due).

    While it is behind it is asked for nothing new, so a stalled drafter costs the target one wait
    budget and then nothing, until it has caught up.
    """

    def __init__(self, clock: Clock, *, wait_budget_s: float) -> None:
        self._clock = clock
        self._wait_budget_s = wait_budget_s
        self._link: Link | None = None
        self._round = 0
        self._answered = 0
        self._asked_s = 0.0
        self.waited_s = 0.0
        """Seconds the last `collect` waited."""
        self.num_losses = 0
        """Times an attached drafter vanished."""

    @property
    def attached(self) -> bool:
        """Whether a drafter is connected."""
        return self._link is not None

    @property
    def ready(self) -> bool:
        """Whether to ask it now: its last answer is in, or so overdue that it may be lost."""
        while self._link is not None and self._answered < self._round:
            if self._receive(0.0) is None:
                break
        if self._link is None:
            return False
        overdue_s = self._clock.now_s() - self._asked_s
        return self._answered == self._round or overdue_s > _RETRY_BUDGETS * self._wait_budget_s

    def attach(self, hello: Hello, link: Link) -> None:
        """Take a drafter that connected; it replaces an earlier one."""
        if self._link is not None:
            self._link.close()
        _LOG.info("drafter %s attached", hello.name)
        self._link, self._answered = link, self._round

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

    def collect(self) -> Proposal | None:
        """Wait for the answer to the last `ask`, at most the wait budget; None if none came."""
        start_s = self._clock.now_s()
        deadline_s = start_s + self._wait_budget_s
        proposal = None
        while self._link is not None and self._answered < self._round:
            left_s = deadline_s - self._clock.now_s()
            if left_s <= 0:
                _LOG.warning("drafter did not answer within %.2f s", self._wait_budget_s)
                break
            proposal = self._receive(left_s)
        self.waited_s = self._clock.now_s() - start_s
        return proposal if proposal is not None and proposal.round == self._round else None

    def close(self) -> None:
        """Let the drafter go."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _receive(self, timeout_s: float) -> Proposal | None:
        assert self._link is not None
        try:
            message = self._link.recv(timeout_s)
        except PeerError as error:
            self._detach(error)
            return None
        if not isinstance(message, Proposal):
            return None
        self._answered = max(self._answered, message.round)
        return message

    def _detach(self, error: PeerError) -> None:
        _LOG.warning("drafter lost, going on without it: %s", error)
        self.close()
        self.num_losses += 1
