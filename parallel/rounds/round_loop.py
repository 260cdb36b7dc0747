"""The round loop: the one that the engine runs, and that the simulator runs in virtual time.

A round requests drafts, scores them and verifies them, for many sequences in one target forward.
The loop holds the order of these steps and every decision: modes, draft lengths, widths, and what
is learned from a round. Links, devices and clocks lie behind `RoundEdges` (`round_edges.py`).
"""

from collections.abc import Sequence as Items
from math import inf
from typing import Any, Generic

from parallel.decoding.layer_width import WidthPlan
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.modes.pearl import outcome_of
from parallel.decoding.round_state import (
    BeginRound,
    DraftAhead,
    DraftMissed,
    Phase,
    Stage,
    Verified,
)
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.rounds.controller import DraftLengthController
from parallel.rounds.machine import with_lookup, with_mode
from parallel.rounds.mode_chooser import ModeChooser
from parallel.rounds.outcome_budget import AnswerTimes, OutcomeBudget
from parallel.rounds.round_edges import Forward, RoundEdges, RoundSequence, RoundWork, WorkT

_BEFORE_SCORING = (Phase.WAITING_DRAFT, Phase.COMPLETING)
_AUTO = policy_of(DecodeMode.AUTO)
_SMOOTHING = 0.1
_LIKELY = 0.3
"""A look-up whose first token is less likely kept is not tested."""


class RoundLoop(Generic[WorkT]):
    """Runs rounds and learns from them."""

    def __init__(self, edges: RoundEdges[WorkT], controller: DraftLengthController) -> None:
        self._edges = edges
        self.controller = controller
        self.widths = WidthPlan()
        self.width: int | None = None
        """Layers of the drafters whose attention runs at once, in this round; None: no choice."""
        self.outcomes = OutcomeBudget()
        """How many outcomes to draft for."""
        self.answer_times = AnswerTimes(self.outcomes)
        self._modes = ModeChooser(_AUTO.choices, self._predicted_pace)
        self._batch = 1
        self._token_s = 0.0
        """Seconds that a token takes, all sequences together; 0 until a round was timed."""

    def set_draft_steps(self, step_s: Items[float], *, width: int | None) -> None:
        """Start over with a new drafter's predictions.

        Args:
            step_s: predicted seconds of its steps with layers 1, 2, ... at a time.
            width: the layers at a time that its user fixed.
        """
        self.controller.predict_steps(step_s)
        self.widths = WidthPlan(step_s, fixed=width)

    def forget(self, number: int) -> None:
        """Drop what was learned about a sequence."""
        self.controller.forget(number)
        self._modes.forget(number)

    def observe_draft(self, num_steps: int, seconds: float) -> None:
        """Record the time of a drafter's answer to this round's width."""
        self.controller.observe_draft(num_steps, seconds, width=self.width or 1)

    def run(self, works: Items[WorkT], *, reads_prompts: bool) -> Forward:
        """Run one round.

        Args:
            works: the sequences that take part, each with an empty work.
            reads_prompts: whether the forward also reads prompts, whose time would spoil what is
                learned from the round.
        """
        start_s = self._edges.now_s()
        self._edges.begin(works)
        self.width = self.widths.choose()
        self._batch = len(works)
        for work in works:
            self._choose_mode(work.sequence)
            work.apply(BeginRound(draft_length=self._draft_length(work, len(works))))
            work.num_outcomes = self._num_outcomes(work, len(works))
        self._edges.request_drafts(works)
        self._await_drafts(works, _BEFORE_SCORING)
        forward = self._edges.score(works)
        self._await_drafts(works, (Phase.SCORING,))
        if not reads_prompts:
            self.controller.observe_forward(forward.num_positions, forward.seconds)
        decided = self._edges.verdicts(works)
        self._take_prepared(works, decided)
        for work, verdict in decided:
            work.apply(Verified(verdict=verdict))
            self._edges.report(work, verdict)
            self._observe_verdict(work)
        self._answer_misses([work for work, _ in decided])
        if not reads_prompts:
            self._observe_pace(works, self._edges.now_s() - start_s)
        return forward

    def _choose_mode(self, sequence: RoundSequence) -> None:
        """Give a sequence whose mode is left to the leader the best one, unless drafts are open."""
        if not policy_of(sequence.asked_mode).choices:
            return
        sequence.next_mode = self._modes.choose(sequence.number)
        if sequence.state.stage is Stage.PRE_VERIFY:
            sequence.state = with_mode(sequence.state, sequence.next_mode)

    def _predicted_pace(self, number: int, mode: DecodeMode) -> float | None:
        return self.controller.predicted_pace(
            number, mode, batch=self._batch, width=self.width or 1
        )

    def _draft_length(self, work: WorkT, batch: int) -> int:
        """Return how many draft tokens are worth requesting, at most what can still be used."""
        sequence: RoundSequence = work.sequence
        state = sequence.state
        policy = policy_of(state.mode)
        if not policy.drafts or sequence.next_mode is not state.mode:
            return 0  # what is in flight is verified first
        usable = sequence.num_remaining - policy.num_claimed(state)
        limit = self._edges.draft_limit(work)
        usable = usable if limit is None else min(usable, limit)
        if usable <= 0:
            return 0
        length = sequence.draft_length
        if length is None and self._edges.drafts_trees(work):
            length = self.controller.tree_budget(sequence.number) + self._edges.num_forced(work)
        elif length is None:
            width = self.width or 1
            length = self.controller.choose(sequence.number, state.mode, batch=batch, width=width)
            length += 0 if policy.prepares_outcomes else self._edges.num_forced(work)
        elif policy.prepares_outcomes:
            # A step that the verdict overtakes adds nothing, and delays the next request's first.
            width = self.width or 1
            length = self.controller.fitting(
                sequence.number, state.mode, length, batch=batch, width=width
            )
        return min(length, usable)

    def _num_outcomes(self, work: WorkT, batch: int) -> int:
        """Return how many outcomes a drafter is to draft for."""
        sequence: RoundSequence = work.sequence
        policy = policy_of(sequence.state.mode)
        if work.request is None or not policy.prepares_outcomes:
            return 0
        length = work.request.draft_length
        return self.outcomes.choose(
            length,
            alpha=self.controller.acceptance(sequence.number),
            forward_s=self.controller.forward_s(length * batch),
            usual=policy.num_outcomes(length),
        )

    def _await_drafts(self, works: Items[WorkT], phases: tuple[Phase, ...]) -> None:
        """Take answers until no work is in these phases, or the wait budget is over."""
        by_number = {work.sequence.number: work for work in works}
        deadline_s = self._edges.now_s() + self._edges.wait_budget_s
        while pending := [work for work in works if work.phase in phases]:
            for work in self._edges.take_answer(pending, by_number, deadline_s):
                work.apply(DraftMissed())

    def _take_prepared(self, works: Items[WorkT], decided: Items[tuple[WorkT, Verdict]]) -> None:
        """Take what has been drafted for the outcomes that came true.

        One more token of such a draft is worth a wait as long as the tokens that it will add on
        average take to decode.
        """
        ahead = [pair for pair in decided if _prepares(pair[0])]
        if not ahead:
            return
        by_number = {work.sequence.number: work for work in works}
        self._edges.take_arrived(by_number)
        while gains := {work.sequence.number: self._gain(work, verdict) for work, verdict in ahead}:
            growing = {
                work.sequence.number: outcome_of(work.sequence.state, verdict)
                for work, verdict in ahead
                if gains[work.sequence.number] > 0
            }
            patience_s = sum(gains.values()) * self._token_s
            if not growing or not self._edges.take_due(by_number, growing, patience_s):
                return

    def _answer_misses(self, works: Items[WorkT]) -> None:
        """Give sequences whose verdict found no draft one that is looked up, to test next."""
        for work in works:
            sequence: RoundSequence = work.sequence
            state, commit, request = sequence.state, work.commit, work.request
            if not _prepares(work) or commit is None or request is None:
                continue
            num_left = sequence.num_remaining - len(commit.token_ids)
            num_draft = min(request.draft_length, num_left) - 1
            stays = sequence.next_mode is state.mode
            if commit.ahead is DraftAhead.HIT or num_draft < 1 or not stays:
                continue
            found = self._edges.look_up(work, num_draft)
            if found.gains and found.gains[0] >= _LIKELY:
                num = self.controller.worth_of_chain(found.gains, batch=len(works))
                draft = DraftTree.chain(found.token_ids[:num])
                sequence.state = with_lookup(state, draft)

    def _gain(self, work: WorkT, verdict: Verdict) -> float:
        """Return the chance that the next token to arrive for an outcome is kept; 0: none will."""
        state = work.sequence.state
        carried = policy_of(state.mode).carry_over(state, verdict)
        if carried is None or len(carried.in_flight) >= state.draft_length - 1:
            return 0.0
        alpha = self.controller.acceptance(work.sequence.number)
        return alpha ** (len(carried.in_flight) + 1)

    def _observe_verdict(self, work: WorkT) -> None:
        commit = work.commit
        assert commit is not None
        if not commit.num_drafted or commit.is_looked_up:
            return
        is_known = commit.ahead in (DraftAhead.HIT, DraftAhead.UNFORESEEN)
        if _prepares(work) and commit.rejected and is_known:
            guesses = commit.num_guesses / commit.num_drafted
            self.outcomes.observe_rejection(is_hit=commit.ahead is DraftAhead.HIT, guesses=guesses)
        number = work.sequence.number
        if self._edges.drafts_trees(work):
            self.controller.observe_tree(number, commit.num_accepted)
        else:
            self.controller.observe_verdict(number, commit.num_accepted, rejected=commit.rejected)

    def _observe_pace(self, works: Items[WorkT], seconds: float) -> None:
        """Record the tokens that the round's modes and width committed in its time."""
        decided = [(work, work.commit) for work in works if work.commit is not None]
        num_tokens = sum(len(commit.token_ids) for _, commit in decided)
        if num_tokens and 0 < seconds < inf:
            mean_s = seconds / num_tokens
            known_s = self._token_s or mean_s
            self._token_s = known_s + _SMOOTHING * (mean_s - known_s)
        for work, commit in decided:
            number, mode = work.sequence.number, work.sequence.state.mode
            self._modes.observe(number, mode, len(commit.token_ids), seconds)
        if decided and all(work.request is not None for work, _ in decided):
            self.widths.observe(self.width, num_tokens, seconds)


def _prepares(work: RoundWork[Any]) -> bool:
    return policy_of(work.sequence.state.mode).prepares_outcomes
