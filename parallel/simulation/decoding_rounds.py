"""Generation in virtual time: a leader and its drafter as discrete events.

What a sequence does comes from the state machine that decodes, draft lengths, modes and widths from
the controllers that choose them; only forwards, draft steps and messages are seconds from a model.
It closes the chain of evidence: the formulas of `cost.py` against this, this against the system.
"""

from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from parallel.decoding.controller import DraftLengthController
from parallel.decoding.layer_width import WidthPlan
from parallel.decoding.machine import Commit, DraftMissed, Phase, Stage, with_mode
from parallel.decoding.mode_choice import PaceChooser
from parallel.decoding.types import DecodeMode
from parallel.simulation.decoding_setup import (
    Busy,
    Setting,
    SimulatedDecoding,
    SimulatedRequest,
    Span,
)
from parallel.simulation.simulated_peers import SimulatedAnswer, SimulatedDrafter, SimulatedSequence

_MODES = (DecodeMode.SPECULATIVE, DecodeMode.PEARL, DecodeMode.AUTOREGRESSIVE)


def simulate(
    setting: Setting, requests: Items[SimulatedRequest], *, keep_spans: int = 0
) -> SimulatedDecoding:
    """Run requests to their end.

    Args:
        setting: what runs.
        requests: in the order of their arrival; as many are in flight as `max_batch` says.
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
    """Makes rounds as `runtime/engine/round.py` does, on a clock of its own."""

    def __init__(
        self, setting: Setting, requests: Items[SimulatedRequest], keep_spans: int
    ) -> None:
        self._setting = setting
        self._coming = deque(enumerate(requests, start=1))
        self._running: list[SimulatedSequence] = []
        self._now_s = 0.0
        self._spans: list[Span] = []
        self._keep_spans = keep_spans
        self._drafter = SimulatedDrafter(setting, self._spans, keep_spans)
        self._answers: deque[SimulatedAnswer] = deque()
        self._controller = DraftLengthController(max_length=setting.max_draft_length)
        self._controller.predict_steps(setting.predicted_step_s)
        self._modes = PaceChooser(_MODES)
        self._widths = WidthPlan(setting.predicted_step_s, fixed=setting.width)
        self._width: int | None = None
        self._last_opening = 0
        self._totals = _Totals()

    def run(self) -> SimulatedDecoding:
        """Run until nothing is left."""
        while self._coming or self._running:
            self._admit()
            self._round()
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
        """Take in who has come, as many as there are places; sleep until somebody comes."""
        if not self._running:
            self._now_s = max(self._now_s, self._coming[0][1].arrives_s)
        auto = self._setting.mode is DecodeMode.AUTO
        mode = _MODES[0] if auto else self._setting.mode
        while self._coming and len(self._running) < self._setting.max_batch:
            number, request = self._coming[0]
            if request.arrives_s > self._now_s:
                break
            self._coming.popleft()
            self._running.append(SimulatedSequence(number, request, mode))

    def _round(self) -> None:
        start_s, works = self._now_s, list(self._running)
        fresh = any(work.unread > 1 for work in works)
        self._width = self._widths.choose()
        for work in works:
            self._choose_mode(work)
            work.begin(self._draft_length(work, len(works)))
        self._ask([work for work in works if work.wanted is not None])
        waited_s = self._await(works, (Phase.WAITING_DRAFT, Phase.COMPLETING))
        self._score(works, fresh=fresh)
        waited_s += self._await(works, (Phase.SCORING,))
        self._totals.waited_s += waited_s
        self._now_s += self._setting.host_s
        commits = [(work, work.decide()) for work in works]
        if not fresh:
            self._observe_pace(commits, self._now_s - start_s)
        for work, commit in commits:
            self._commit(work, commit)
        self._totals.rounds += 1

    def _choose_mode(self, work: SimulatedSequence) -> None:
        if self._setting.mode is not DecodeMode.AUTO:
            return
        work.wanted_mode = self._modes.choose(work.number)
        if work.state.stage is Stage.PRE_VERIFY:
            work.state = with_mode(work.state, work.wanted_mode)

    def _draft_length(self, work: SimulatedSequence, batch: int) -> int:
        state = work.state
        if state.mode is DecodeMode.AUTOREGRESSIVE or work.wanted_mode is not state.mode:
            return 0
        pearl = state.mode is DecodeMode.PEARL
        usable = work.num_wanted - (len(state.in_flight) + state.owed if pearl else 1)
        if usable <= 0:
            return 0
        wanted = self._setting.draft_length
        if wanted is None:
            width = self._width or 1
            wanted = self._controller.choose(work.number, state.mode, batch=batch, width=width)
        return min(wanted, usable)

    def _ask(self, asking: list[SimulatedSequence]) -> None:
        if not asking:
            return
        number = self._totals.rounds + 1
        if any(not work.is_open for work in asking):
            self._last_opening = number
        for work in asking:
            work.is_open = True
        self._answers += self._drafter.answer(self._now_s, number, asking, self._width)

    def _await(self, works: list[SimulatedSequence], phases: tuple[Phase, ...]) -> float:
        """Take drafts in until no sequence is in these phases; return the seconds waited."""
        waited_s = 0.0
        while any(work.state.phase in phases for work in works):
            if not self._answers:
                for work in works:
                    if work.state.phase in phases:
                        work.apply(DraftMissed())
                break
            answer = self._answers.popleft()
            waited_s += max(0.0, answer.arrives_s - self._now_s)
            self._now_s = max(self._now_s, answer.arrives_s)
            self._take(answer)
        return waited_s

    def _take(self, answer: SimulatedAnswer) -> None:
        if not answer.partial:
            self._totals.draft_s += answer.draft_s
            if answer.asked != self._last_opening:
                self._controller.observe_draft(
                    answer.num_steps, answer.draft_s, width=self._width or 1
                )
        for work, event in answer.drafts:
            if work in self._running:
                work.apply(event)

    def _score(self, works: list[SimulatedSequence], *, fresh: bool) -> None:
        num_positions = sum(work.score.num_logits for work in works if work.score is not None)
        num_read = sum(work.unread - 1 for work in works)
        taken_s = self._setting.target_s(num_positions) + num_read * self._setting.prompt_s
        if len(self._spans) < self._keep_spans:
            self._spans.append(Span(Busy.TARGET, self._now_s, self._now_s + taken_s))
        self._now_s += taken_s
        if not fresh:
            self._controller.observe_forward(num_positions, taken_s)
        for work in works:
            work.unread = 1

    def _observe_pace(
        self, commits: list[tuple[SimulatedSequence, Commit]], seconds: float
    ) -> None:
        for work, commit in commits:
            num_tokens = len(commit.token_ids)
            self._modes.observe(work.number, work.state.mode, num_tokens, seconds)
        if all(work.wanted is not None for work, _ in commits):
            tokens = sum(len(commit.token_ids) for _, commit in commits)
            self._widths.observe(self._width, tokens, seconds)

    def _commit(self, work: SimulatedSequence, commit: Commit) -> None:
        totals, request = self._totals, work.request
        num_taken = min(len(commit.token_ids), work.num_wanted)
        totals.ttft_s.setdefault(work.number, self._now_s - request.arrives_s)
        work.num_output += num_taken
        totals.tokens += num_taken
        totals.drafted += commit.num_drafted
        totals.accepted += commit.num_accepted
        totals.rejected += commit.rejected
        if commit.num_drafted:
            self._controller.observe_verdict(
                work.number, commit.num_accepted, rejected=commit.rejected
            )
        if work.num_wanted <= 0:
            totals.total_s[work.number] = self._now_s - request.arrives_s
            self._running.remove(work)
            self._controller.forget(work.number)
            self._modes.forget(work.number)
