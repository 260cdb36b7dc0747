"""The leader's side of a drafter's link: ask, wait within a budget, never hang on it.

The engine is safe from its drafters here: what one sends is checked (`draft_fence.py`), what it
raises is counted, and one that fails repeatedly is dropped.
"""

import logging
import threading

from parallel.messages import DraftRequest, Hello, Proposal
from runtime.clock import Clock
from runtime.engine.draft_fence import CheckedProposal, DraftFence
from runtime.engine.part_times import PartTimes
from runtime.engine.strikes import Strikes
from runtime.errors import DrafterError, PacelineError, ProtocolError
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.leader")
_RETRY_BUDGETS = 20  # a lost message must not disable the drafter permanently


class DrafterPort:
    """A drafter that is attached, lost, or behind (it exceeded a wait budget).

    While it is behind it is asked for nothing new, so a stalled drafter costs the target one wait
    budget and then nothing, until it has caught up.
    """

    def __init__(
        self,
        number: int,
        hello: Hello,
        link: Link,
        clock: Clock,
        *,
        vocab_size: int,
        wait_budget_s: float,
    ) -> None:
        self.number = number
        """Its own among all drafters that ever attached; 0 is none."""
        self._clock = clock
        self._link: Link | None = link
        self._round = 0
        self._answered = 0
        self._missed = 0
        self._asked_s = 0.0
        self._open: list[int] = []
        """Rounds whose answers have not ended."""
        self._fence = DraftFence(vocab_size)
        self._strikes = Strikes()
        self._parts = PartTimes()
        self.wait_budget_s = wait_budget_s
        """Longest wait for a draft that is due."""
        self.num_successors = hello.num_successors
        """Best tokens that it receives for each scored position."""
        self.grows_trees = hello.grows_trees
        """Whether it proposes trees, with how likely each token is kept."""
        self.name = hello.name
        self._vocab_size = hello.vocab_size
        self.max_positions = hello.max_positions
        """Longest text it can read, in tokens; None: it names no limit."""
        self.closed: list[int] = []
        """Requests that it may forget, to be sent with the next request for drafts."""
        self.last_opening = 0
        """Round in which it was last sent a new request."""
        self.is_lost = False
        """Whether it vanished."""

    @property
    def is_attached(self) -> bool:
        """Whether its link is open, as far as is known."""
        return self._link is not None

    @property
    def is_behind(self) -> bool:
        """Whether it exceeded a wait budget and has not caught up."""
        return self._missed > self._answered

    @property
    def ready(self) -> bool:
        """Whether to ask it now: it is not behind, or so far that a message may have been lost."""
        while self.is_behind and self.receive(0.0) is not None:
            pass  # answers that are too late only show that it is catching up
        if self._link is None:
            return False
        overdue_s = self._clock.now_s() - self._asked_s
        return not self.is_behind or overdue_s > _RETRY_BUDGETS * self.wait_budget_s

    @property
    def due(self) -> bool:
        """Whether an answer is pending; never for one that is lost."""
        return self._link is not None and self._answered < self._round

    @property
    def num_open(self) -> int:
        """Requests whose answers have not ended."""
        return len(self._open)

    @property
    def next_part_s(self) -> float | None:
        """When the next part of its answer should be here; None: unknown, or none is to come."""
        return self._parts.next_s if self.due else None

    @property
    def lag_s(self) -> float:
        """Seconds between request and answer beyond the drafter's own work, as far as is known."""
        return self._parts.lag_s or 0.0

    def was_late(self) -> None:
        """Record that a part did not come when it was due."""
        self._parts.late()

    @property
    def num_faults(self) -> int:
        """Answers that were wrong or failed, so far."""
        return self._strikes.num_faults

    def num_left(self, num_tokens: int, highest_id: int) -> int | None:
        """Return how many tokens it can draft after a text; None: it names no limit.

        Args:
            num_tokens: length of the text.
            highest_id: the highest token id in it: a drafter cannot read ids beyond its vocabulary.
        """
        if self._vocab_size is not None and highest_id >= self._vocab_size:
            return 0
        return None if self.max_positions is None else max(0, self.max_positions - num_tokens)

    def ask(self, request: DraftRequest) -> bool:
        """Send one round's work; return False if the drafter failed or is lost."""
        if self._link is None:
            return False
        if self.is_behind:  # for so long that it counts as silent
            self._strikes.silence()
            if self._strikes.is_out:
                self._drop("it does not answer")
                return False
        self._round = request.round
        self._open.append(request.round)
        self._asked_s = self._clock.now_s()
        self._parts.ask(request.round, self._asked_s)
        self._fence.expect(request)
        try:
            self._link.send(request)
        except DrafterError as error:
            self._answered = request.round
            self._open.clear()
            self._fault(str(error))
        except PacelineError as error:
            self._detach(error)
        else:
            return True
        return False

    def receive(self, timeout_s: float) -> CheckedProposal | None:
        """Return the next part of an answer; None if none arrives in time or the drafter is lost.

        What is wrong with the part has been counted, and may have cost the drafter its place.
        """
        if self._link is None:
            return None
        start_s = self._clock.now_s()
        try:
            message = self._link.recv(timeout_s)
        except PacelineError as error:
            self._detach(error)
            return None
        if message is None:
            return None
        if not isinstance(message, Proposal):
            self._detach(ProtocolError(f"a drafter sent a {type(message).__name__}"))
            return None
        checked = self._fence.check(message)
        if checked.problems:
            self._fault(checked.problems[0])
        elif checked.is_answer:
            self._strikes.good()
        now_s = self._clock.now_s()
        self._parts.arrive(checked.round, checked.draft_s, now_s, waited=now_s - start_s)
        if checked.is_answer:
            self._answered = max(self._answered, checked.round)
            self._open = [number for number in self._open if number > checked.round]
        return checked

    def drain(self) -> None:
        """Receive what arrived while the engine was idle."""
        while self.receive(0.0) is not None:
            pass

    def miss(self) -> None:
        """Record that the wait for the last request's answer is over."""
        if self._link is not None:
            _LOG.warning("drafter did not answer within %.2f s", self.wait_budget_s)
        self._missed = self._round

    def close(self) -> None:
        """Detach the drafter."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _detach(self, error: PacelineError) -> None:
        _LOG.warning("drafter %s lost, requests continue without it: %s", self.name, error)
        self.close()
        self.is_lost = True

    def _fault(self, problem: str) -> None:
        if self._strikes.fault():
            _LOG.warning("drafter %s: %s (fault %d)", self.name, problem, self._strikes.num_faults)
        if self._strikes.is_out:
            self._drop(problem)

    def _drop(self, problem: str) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        _LOG.error(
            "drafter %s is dropped after %d faults, requests continue without it: %s",
            self.name,
            self._strikes.num_faults,
            problem,
        )
        self.is_lost = True
        # `close` blocks on a peer that receives nothing, and the round must not wait for it.
        threading.Thread(target=link.close, name=f"close {self.name}", daemon=True).start()
