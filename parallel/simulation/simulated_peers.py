"""Sequences and a drafter in virtual time: what `decoding_rounds.py` makes rounds of."""

from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.round_state import DraftArrived, RequestDraft, Verify
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.drafting.outcome_choice import likeliest_outcomes
from parallel.rounds.machine import start
from parallel.rounds.round_edges import RoundWork
from parallel.simulation.decoding_setup import Busy, SimulatedDeployment, SimulatedRequest, Span

RIGHT, _WRONG, _OTHER = 1, 0, 2
_NUM_RANKS = 8  # guesses of a recovered token, as a drafter looks at
_MORE_RANKS = 4  # for each further drafter
_MOST_RANKS = 32
_TOKEN_BYTES = 8


class SimulatedSequence:
    """One request in flight."""

    def __init__(
        self, number: int, request: SimulatedRequest, setting: SimulatedDeployment
    ) -> None:
        self.number = number
        self.request = request
        self.asked_mode: DecodeMode = setting.mode
        self.draft_length = setting.draft_length
        self.next_mode = setting.mode
        self.state = start(
            request=number,
            mode=setting.mode,
            num_committed=request.num_prompt,
            last_token=RIGHT,
        )
        self.num_output = 0
        self.unread = request.num_prompt
        self.is_open = False
        """Whether the drafter knows it."""

    @property
    def num_remaining(self) -> int:
        """Tokens it may still generate."""
        return self.request.max_tokens - self.num_output


def verdict_on(verify: Verify) -> Verdict:
    """Accept the right drafts before the first wrong one."""
    tokens = verify.draft.token_ids
    right = tokens.index(_WRONG) if _WRONG in tokens else len(tokens)
    emits = right < verify.num_rows
    return Verdict(num_accepted=right, next_token=RIGHT if emits else None)


@dataclass(slots=True)
class SimulatedAnswer:
    """What the drafter sends, and when it is there."""

    arrives_s: float
    asked: int
    """Number of the request it answers."""
    drafts: list[tuple[int, DraftArrived]]
    """By number of the sequence."""
    partial: bool
    num_steps: int = 0
    draft_s: float = 0.0


@dataclass(slots=True)
class _Wanted:
    """A sequence's request, with the outcomes it is drafted for."""

    sequence: SimulatedSequence
    request: RequestDraft
    num_outcomes: int
    others: list[tuple[VerdictOutcome, int]] = field(default_factory=list)
    """Each with the position of its draft's first token."""


class SimulatedDrafter:
    """Answers requests one after the other, as `serve_drafts` does; several drafters work alike.

    A request that arrives while it drafts for outcomes ends that after the step in progress.
    """

    def __init__(self, setting: SimulatedDeployment, spans: list[Span], keep_spans: int) -> None:
        self._setting = setting
        self._free_s = 0.0
        self._step_ends: list[float] = []
        """Of the request in progress, if it can be cut."""
        self._spans, self._keep_spans = spans, keep_spans
        self.sent: deque[SimulatedAnswer] = deque()
        """Answers that the leader has not taken, in the order of their arrival."""

    def ask(
        self,
        now_s: float,
        number: int,
        asking: Items[RoundWork[SimulatedSequence]],
        width: int | None,
    ) -> None:
        """Draft for a round: streamed first tokens are sent ahead, then the rest."""
        arrives_s = now_s + self._setting.link.send_s(_TOKEN_BYTES * len(asking))
        self._cut(arrives_s)
        begin_s = max(arrives_s, self._free_s)
        wanted = [
            _Wanted(work.sequence, work.request, work.num_outcomes)
            for work in asking
            if work.request is not None
        ]
        chains, branching = list[_Wanted](), list[_Wanted]()
        for want in wanted:
            is_chain = not policy_of(want.sequence.state.mode).prepares_outcomes
            (chains if is_chain else branching).append(want)
        if chains:
            self._draft_chains(begin_s, number, chains, width or 1)
            self.sent[-1].partial = bool(branching)
        if branching:
            self._draft_outcomes(max(begin_s, self._free_s), number, branching, width or 1)

    def _cut(self, now_s: float) -> None:
        """End what is being drafted for outcomes: the step in progress is the last one."""
        cut_s = next((end_s for end_s in self._step_ends if end_s >= now_s), None)
        self._step_ends = []
        if cut_s is None or cut_s == self._free_s:
            return
        self._free_s = cut_s
        latest_s = self._sent_s(cut_s, _NUM_RANKS)
        kept = [answer for answer in self.sent if answer.arrives_s <= latest_s]
        self.sent = deque(kept)
        if kept:
            kept[-1].partial = False

    def _draft_chains(
        self, begin_s: float, number: int, wanted: Items[_Wanted], layers: int
    ) -> None:
        setting = self._setting
        num_steps = max(want.request.draft_length for want in wanted)
        first_s, later_s = setting.step_s(1), setting.step_s(layers)
        taken_s = first_s + (num_steps - 1) * later_s
        self._work(begin_s, begin_s + taken_s)
        streams = [
            want for want in wanted if policy_of(want.sequence.state.mode).streams and num_steps > 1
        ]
        if streams:
            ahead = [(want.sequence.number, self._part(want, 0, 1, layers)) for want in streams]
            arrives_s = self._sent_s(begin_s + first_s, 1)
            self.sent.append(SimulatedAnswer(arrives_s, number, ahead, True))
        rest = [
            (
                want.sequence.number,
                self._part(want, int(want in streams), want.request.draft_length, layers),
            )
            for want in wanted
        ]
        arrives_s = self._sent_s(self._free_s, num_steps * len(rest))
        self.sent.append(SimulatedAnswer(arrives_s, number, rest, False, num_steps, taken_s))

    def _draft_outcomes(
        self, begin_s: float, number: int, wanted: Items[_Wanted], layers: int
    ) -> None:
        """Draft token by token after all outcomes at once, and send each step's tokens."""
        setting, end_s = self._setting, begin_s
        num_sharing = max(1, setting.num_drafters // len(wanted))
        for want in wanted:
            want.others = self._others(want, num_sharing)
        num_steps = max(want.request.draft_length for want in wanted)
        num_branches = sum(1 + len(want.others) for want in wanted)
        num_branches = -(-num_branches // setting.num_drafters)  # of each drafter
        for step in range(num_steps):
            further = (num_branches - 1) * setting.branch_s if step else 0.0
            end_s += setting.step_s(layers if step else 1) + further
            self._step_ends.append(end_s)
            drafts = [
                (want.sequence.number, self._level(want, step, layers))
                for want in wanted
                if step < want.request.draft_length
            ]
            self.sent.append(
                SimulatedAnswer(
                    self._sent_s(end_s, num_branches),
                    number,
                    drafts,
                    step < num_steps - 1,
                    step + 1,
                    end_s - begin_s,
                )
            )
        self._work(begin_s, end_s)

    def _others(self, want: _Wanted, num_sharing: int) -> list[tuple[VerdictOutcome, int]]:
        """Return the likeliest outcomes beside PEARL's own, of all drafters that share them."""
        sequence, state = want.sequence, want.sequence.state
        chance, stream = self._setting.chance, sequence.request.stream
        num = want.num_outcomes * num_sharing - 1
        num_ranks = min(_MOST_RANKS, _NUM_RANKS + _MORE_RANKS * (num_sharing - 1))
        guesses = [chance.beta * (1 - chance.beta) ** rank for rank in range(num_ranks)]
        places = likeliest_outcomes([chance.alpha] * (len(state.in_flight) + 1), guesses, num)
        found = []
        for place in places:
            position = state.num_committed + place.num_accepted
            drafted = [*state.in_flight.token_ids, int(chance.is_right(stream, position))]
            is_right = (
                drafted[place.num_accepted] == _WRONG
                and chance.num_wrong_guesses(stream, position, num_ranks) == place.rank
            )
            token = RIGHT if is_right else _OTHER + place.rank
            found.append((VerdictOutcome(place.num_accepted, token), position + 1))
        return found

    def _level(self, want: _Wanted, step: int, layers: int) -> DraftArrived:
        """Return what one step adds: at first the outcomes, then a token of each one's draft."""
        part = self._part(want, step, step + 1, layers)
        outcomes = [
            OutcomeDraft(
                outcome=outcome,
                first=max(0, step - 1),
                token_ids=(self._token(want, position + step - 1, layers),) if step else (),
            )
            for outcome, position in want.others
        ]
        return DraftArrived(
            epoch=part.epoch,
            base=part.base,
            draft=part.draft,
            partial=step + 1 < want.request.draft_length,
            outcomes=tuple(outcomes),
        )

    def _work(self, begin_s: float, end_s: float) -> None:
        self._free_s = end_s
        if len(self._spans) < self._keep_spans:
            self._spans.append(Span(Busy.DRAFTER, begin_s, end_s))

    def _sent_s(self, now_s: float, num_tokens: int) -> float:
        return now_s + self._setting.link.send_s(_TOKEN_BYTES * num_tokens)

    def _token(self, want: _Wanted, position: int, width: int) -> int:
        chance, stream = self._setting.chance, want.sequence.request.stream
        return RIGHT if chance.is_right(stream, position, width) else _WRONG

    def _part(self, want: _Wanted, first: int, stop: int, width: int) -> DraftArrived:
        request = want.request
        tokens = tuple(
            self._token(want, request.base + place, width if place else 1)
            for place in range(first, stop)
        )
        return DraftArrived(
            epoch=request.epoch,
            base=request.base + first,
            draft=DraftTree.chain(tokens),
            partial=first == 0 and stop == 1 < request.draft_length,
        )
