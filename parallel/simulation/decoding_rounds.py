"""Generation in virtual time: a leader and its drafter as discrete events.

Rounds are run by the loop that the engine runs (`parallel/rounds/round_loop.py`); only forwards,
draft steps and messages are seconds from a model. It closes the chain of evidence: the formulas of
`cost.py` against this, this against the system.
"""

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from math import inf

from parallel.decoding.round_state import Commit, DraftAhead
from parallel.decoding.types import Verdict
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.rounds.controller import DraftLengthController
from parallel.rounds.round_edges import Forward, LookedUp, RoundWork
from parallel.rounds.round_loop import RoundLoop
from parallel.simulation.decoding_setup import (
    Busy,
    SimulatedDecoding,
    SimulatedDeployment,
    SimulatedRequest,
    Span,
)
from parallel.simulation.simulated_peers import (
    SimulatedAnswer,
    SimulatedDrafter,
    SimulatedSequence,
    verdict_on,
)

_Work = RoundWork[SimulatedSequence]


def simulate(
    setting: SimulatedDeployment, requests: Items[SimulatedRequest], *, keep_spans: int = 0
) -> SimulatedDecoding:
    """Run requests to their end.

    Args:
        setting: what runs.
        requests: in the order of their arrival; at most `max_batch` are in flight.
        keep_spans: how many of the first spans to keep, for a picture.
    """
    return _Leader(setting, requests, keep_spans).run()


@dataclass(slots=True)
class _Totals:
    rounds: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    draft_s: float = 0.0
    waited_s: float = 0.0
    ttft_s: dict[int, float] = field(default_factory=dict)
    total_s: dict[int, float] = field(default_factory=dict)


class _Leader:
    """The edges of the round loop, on a clock of its own."""

    wait_budget_s = inf

    def __init__(
        self, setting: SimulatedDeployment, requests: Items[SimulatedRequest], keep_spans: int
    ) -> None:
        self._setting = setting
        self._coming = deque(enumerate(requests, start=1))
        self._running: list[SimulatedSequence] = []
        self._now_s = 0.0
        self._spans: list[Span] = []
        self._keep_spans = keep_spans
        self._drafter = SimulatedDrafter(setting, self._spans, keep_spans)
        controller = DraftLengthController(max_length=setting.max_draft_length)
        self._loop: RoundLoop[_Work] = RoundLoop(self, controller)
        self._loop.set_draft_steps(setting.predicted_step_s, width=setting.width)
        self._last_opening = 0
        self._totals = _Totals()

    def run(self) -> SimulatedDecoding:
        """Run until nothing is left."""
        while self._coming or self._running:
            self._admit()
            works = [RoundWork(sequence=sequence) for sequence in self._running]
            self._loop.run(works, reads_prompts=any(s.unread > 1 for s in self._running))
            for work in works:
                assert work.commit is not None
                work.sequence.unread = 1
                self._commit(work.sequence, work.commit)
            self._totals.rounds += 1
        totals = self._totals
        return SimulatedDecoding(
            num_rounds=totals.rounds,
            num_tokens=totals.tokens,
            elapsed_s=self._now_s,
            drafted=totals.drafted,
            accepted=totals.accepted,
            rejected=totals.rejected,
            draft_s=totals.draft_s,
            waited_s=totals.waited_s,
            ttft_s=tuple(totals.ttft_s[number] for number in sorted(totals.ttft_s)),
            total_s=tuple(totals.total_s[number] for number in sorted(totals.total_s)),
            spans=tuple(self._spans),
        )

    def _admit(self) -> None:
        """Admit the requests that have arrived, up to a full batch; if idle, skip to the next."""
        if not self._running:
            self._now_s = max(self._now_s, self._coming[0][1].arrives_s)
        while self._coming and len(self._running) < self._setting.max_batch:
            number, request = self._coming[0]
            if request.arrives_s > self._now_s:
                break
            self._coming.popleft()
            self._running.append(SimulatedSequence(number, request, self._setting))

    def _commit(self, sequence: SimulatedSequence, commit: Commit) -> None:
        totals, request = self._totals, sequence.request
        if commit.ahead is not None:
            self._note(Busy.HIT if commit.ahead is DraftAhead.HIT else Busy.MISS, self._now_s)
        num_taken = min(len(commit.token_ids), sequence.num_remaining)
        totals.ttft_s.setdefault(sequence.number, self._now_s - request.arrives_s)
        sequence.num_output += num_taken
        totals.tokens += num_taken
        totals.drafted += commit.num_drafted
        totals.accepted += commit.num_accepted
        totals.rejected += commit.rejected
        if sequence.num_remaining <= 0:
            totals.total_s[sequence.number] = self._now_s - request.arrives_s
            self._running.remove(sequence)
            self._loop.forget(sequence.number)

    def _note(self, peer: Busy, start_s: float) -> None:
        if len(self._spans) < self._keep_spans:
            self._spans.append(Span(peer, start_s, self._now_s))

    # --- the round's edges --------------------------------------------------------------------

    def now_s(self) -> float:
        """Return the virtual time."""
        return self._now_s

    def begin(self, works: Items[_Work]) -> None:
        """Do nothing: there is one drafter, and it is always ready."""

    def num_forced(self, work: _Work) -> int:  # noqa: ARG002
        """Return 0: nothing is constrained."""
        return 0

    def draft_limit(self, work: _Work) -> int | None:  # noqa: ARG002
        """Return None: the drafter drafts any number of tokens."""
        return None

    def drafts_trees(self, work: _Work) -> bool:  # noqa: ARG002
        """Return False: chains follow the formulas' process, trees do not."""
        return False

    def request_drafts(self, works: Items[_Work]) -> None:
        """Send the drafter the round's requests."""
        asking = [work for work in works if work.request is not None]
        if not asking:
            return
        number = self._totals.rounds + 1
        if any(not work.sequence.is_open for work in asking):
            self._last_opening = number
        for work in asking:
            work.sequence.is_open = True
        outcomes = [work.num_outcomes for work in asking if work.num_outcomes]
        if outcomes:
            reads_prompt = self._last_opening == number
            self._loop.answer_times.ask(number, outcomes[0], reads_prompt=reads_prompt)
        self._drafter.ask(self._now_s, number, asking, self._loop.width)

    def take_answer(
        self,
        pending: Items[_Work],
        works: Mapping[int, _Work],
        deadline_s: float,  # noqa: ARG002
    ) -> Items[_Work]:
        """Wait for the drafter's next answer; without one, give up on the pending works."""
        if not self._drafter.sent:
            return pending
        answer = self._drafter.sent.popleft()
        self._totals.waited_s += max(0.0, answer.arrives_s - self._now_s)
        self._now_s = max(self._now_s, answer.arrives_s)
        self._take(answer, works)
        return ()

    def take_arrived(self, works: Mapping[int, _Work]) -> None:
        """Apply the answers that have arrived by now."""
        while self._drafter.sent and self._drafter.sent[0].arrives_s <= self._now_s:
            self._take(self._drafter.sent.popleft(), works)

    def take_due(
        self,
        works: Mapping[int, _Work],
        growing: Mapping[int, VerdictOutcome],  # noqa: ARG002
        patience_s: float,
    ) -> bool:
        """Wait for the next part if it arrives within so many seconds."""
        if not self._drafter.sent or self._drafter.sent[0].arrives_s > self._now_s + patience_s:
            return False
        return not self.take_answer((), works, inf)

    def _take(self, answer: SimulatedAnswer, works: Mapping[int, _Work]) -> None:
        self._loop.answer_times.arrive(
            answer.asked, answer.num_steps, answer.draft_s, is_last=not answer.partial
        )
        if not answer.partial:
            self._totals.draft_s += answer.draft_s
            if answer.asked != self._last_opening:
                exchange_s = 2 * self._setting.link.latency_s
                self._loop.observe_draft(answer.num_steps, answer.draft_s + exchange_s)
        for number, event in answer.drafts:
            if number in works:
                works[number].apply(event)

    def look_up(self, work: _Work, num_draft: int) -> LookedUp:  # noqa: ARG002
        """Return nothing: texts that repeat themselves are not simulated."""
        return LookedUp()

    def score(self, works: Items[_Work]) -> Forward:
        """Advance the time by a forward's seconds."""
        num_positions = sum(work.score.num_logits for work in works if work.score is not None)
        num_read = sum(work.sequence.unread - 1 for work in works)
        taken_s = self._setting.target_s(num_positions) + num_read * self._setting.prompt_s
        start_s, self._now_s = self._now_s, self._now_s + taken_s
        self._note(Busy.TARGET, start_s)
        return Forward(num_positions, taken_s)

    def verdicts(self, works: Items[_Work]) -> Items[tuple[_Work, Verdict]]:
        """Advance the time by the host's seconds, and return each work's verdict."""
        self._now_s += self._setting.host_s
        return [(work, verdict_on(work.verify)) for work in works if work.verify is not None]

    def report(self, work: _Work, verdict: Verdict) -> None:
        """Do nothing: the simulation reads the totals."""
