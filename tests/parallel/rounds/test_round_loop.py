"""The round loop's decisions, with edges that record what they are asked for."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from itertools import count
from math import inf

import pytest

from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.round_state import DraftArrived, Stage
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.rounds.controller import DraftLengthController
from parallel.rounds.machine import start
from parallel.rounds.mode_chooser import ModeChooser
from parallel.rounds.round_edges import Forward, LookedUp, RoundWork
from parallel.rounds.round_loop import RoundLoop
from parallel.rounds.tree_record import TreeRecord

RIGHT = 1


class ToySequence:
    def __init__(
        self, mode: DecodeMode, *, draft_length: int | None = 4, num_remaining: int = 100
    ) -> None:
        self.number = 1
        self.asked_mode = self.next_mode = mode
        self.draft_length = draft_length
        self.num_remaining = num_remaining
        self.state = start(request=1, mode=mode, num_committed=1, last_token=0)


Work = RoundWork[ToySequence]


class Edges:
    """Accepts all drafts; each forward takes two seconds."""

    def __init__(
        self, *, limit: int | None = None, trees: bool = False, answers: bool = True
    ) -> None:
        self.wait_budget_s = inf
        self.limit, self.trees, self.answers, self.decides = limit, trees, answers, True
        self.time_s = 0.0
        self.steps: list[str] = []
        self.patience_s: list[float] = []
        self.partial = False
        self.copy = LookedUp()
        self.forced = 0

    def now_s(self) -> float:
        return self.time_s

    def begin(self, works: Items[Work]) -> None:  # noqa: ARG002  (as the protocol has it)
        self.steps.append("begin")

    def num_forced(self, work: Work) -> int:  # noqa: ARG002
        return self.forced

    def draft_limit(self, work: Work) -> int | None:  # noqa: ARG002
        return self.limit

    def drafts_trees(self, work: Work) -> bool:  # noqa: ARG002
        return self.trees

    def request_drafts(self, works: Items[Work]) -> None:
        lengths = [work.request.draft_length for work in works if work.request is not None]
        self.steps.append(f"request {lengths}")

    def take_answer(
        self,
        pending: Items[Work],
        works: Mapping[int, Work],
        deadline_s: float,  # noqa: ARG002
    ) -> Items[Work]:
        self.steps.append("await")
        if not self.answers:
            return pending
        for work in pending:
            assert works[work.sequence.number] is work
            assert work.request is not None
            draft = DraftTree.chain((RIGHT,) * (1 if self.partial else work.request.draft_length))
            arrived = DraftArrived(
                epoch=work.request.epoch,
                base=work.request.base,
                draft=draft,
                partial=self.partial,
            )
            work.apply(arrived)
        return ()

    def take_arrived(self, works: Mapping[int, Work]) -> None:
        assert works
        self.steps.append("take")

    def look_up(self, work: Work, num_draft: int) -> LookedUp:
        self.steps.append("look up")
        assert work.commit is not None
        return self.copy if len(self.copy.token_ids) <= num_draft else LookedUp()

    def score(self, works: Items[Work]) -> Forward:
        self.steps.append("score")
        self.time_s += 2.0
        return Forward(sum(work.score.num_logits for work in works if work.score), 2.0)

    def take_due(
        self, works: Mapping[int, Work], growing: Mapping[int, VerdictOutcome], patience_s: float
    ) -> bool:
        assert set(growing) <= set(works)
        self.patience_s.append(patience_s)
        return False

    def verdicts(self, works: Items[Work]) -> Items[tuple[Work, Verdict]]:
        found = []
        for work in works if self.decides else ():
            assert work.verify is not None
            num = len(work.verify.draft)
            next_token = RIGHT if num < work.verify.num_rows else None
            found.append((work, Verdict(num_accepted=num, next_token=next_token)))
        return found

    def report(self, work: Work, verdict: Verdict) -> None:
        assert work.commit is not None
        assert verdict.num_accepted == work.commit.num_accepted


def run(loop: RoundLoop[Work], sequence: ToySequence, *, reads_prompts: bool = False) -> Work:
    work = RoundWork(sequence=sequence)
    loop.run([work], reads_prompts=reads_prompts)
    return work


def make(edges: Edges) -> RoundLoop[Work]:
    return RoundLoop(edges, DraftLengthController(max_length=8))


@pytest.mark.parametrize(
    ("mode", "steps"),
    [
        (DecodeMode.AUTOREGRESSIVE, ["begin", "request []", "score"]),
        (DecodeMode.SPECULATIVE, ["begin", "request [4]", "await", "score"]),
        (DecodeMode.PEARL, ["begin", "request [4]", "score", "await"]),
        (DecodeMode.OUTCOMES, ["begin", "request [4]", "score", "await", "take"]),
    ],
)
def test_a_round_takes_its_steps_in_the_order_of_its_mode(
    mode: DecodeMode, steps: list[str]
) -> None:
    edges = Edges()
    work = run(make(edges), ToySequence(mode))
    assert edges.steps == steps
    assert work.commit is not None


@pytest.mark.parametrize(
    ("limit", "num_remaining", "expected"), [(None, 100, 4), (2, 100, 2), (None, 3, 2), (0, 100, 0)]
)
def test_a_draft_is_no_longer_than_what_can_be_made_and_used(
    limit: int | None, num_remaining: int, expected: int
) -> None:
    sequence = ToySequence(DecodeMode.SPECULATIVE, num_remaining=num_remaining)
    work = run(make(Edges(limit=limit)), sequence)
    assert (work.request.draft_length if work.request else 0) == expected


def test_a_tree_without_a_fixed_length_is_requested_as_large_as_its_record_permits() -> None:
    work = run(make(Edges(trees=True)), ToySequence(DecodeMode.SPECULATIVE, draft_length=None))
    assert work.request is not None
    assert work.request.draft_length == TreeRecord().budget


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("draft_length", [None, 4])
def test_tokens_that_must_follow_are_requested_beyond_a_length_that_is_not_fixed(
    draft_length: int | None, *, trees: bool
) -> None:
    found = []
    for forced in (0, 5):
        edges = Edges(trees=trees)
        edges.forced = forced
        work = run(make(edges), ToySequence(DecodeMode.SPECULATIVE, draft_length=draft_length))
        assert work.request is not None
        found.append(work.request.draft_length)
    assert found[1] - found[0] == (5 if draft_length is None else 0)


@pytest.mark.parametrize("mode", [DecodeMode.SPECULATIVE, DecodeMode.PEARL])
def test_a_round_whose_draft_does_not_come_commits_one_token(mode: DecodeMode) -> None:
    edges = Edges(answers=False)
    work = run(make(edges), ToySequence(mode))
    assert edges.steps.count("await") == 1
    assert work.commit is not None
    assert work.commit.token_ids == (RIGHT,)
    assert work.commit.num_drafted == 0


def test_a_work_without_a_verdict_commits_nothing() -> None:
    edges = Edges()
    edges.decides = False
    assert run(make(edges), ToySequence(DecodeMode.SPECULATIVE)).commit is None


def test_auto_changes_modes_only_where_nothing_is_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choices = policy_of(DecodeMode.AUTO).choices
    numbers = count()
    monkeypatch.setattr(ModeChooser, "choose", lambda *_: choices[next(numbers) // 7 % 4])
    loop, sequence = make(Edges()), ToySequence(DecodeMode.AUTO)
    seen, stages = set(), set()
    for _ in range(60):
        before = sequence.state
        run(loop, sequence)
        if sequence.state.mode is not before.mode:
            assert before.stage is Stage.PRE_VERIFY
        seen.add(sequence.state.mode)
        stages.add(before.stage)
    assert seen == set(choices)
    assert stages == set(Stage)


def test_auto_drafts_as_long_as_drafts_are_worth_their_time() -> None:
    loop, sequence = make(Edges()), ToySequence(DecodeMode.AUTO)
    seen = []
    for number in range(120):
        loop.observe_draft(4, 0.4 if number < 60 else 400.0)
        run(loop, sequence)
        seen.append(sequence.state.mode)
    assert DecodeMode.AUTOREGRESSIVE not in seen[:60]
    assert seen[-1] is DecodeMode.AUTOREGRESSIVE


def test_a_round_that_reads_prompts_teaches_nothing_of_times() -> None:
    loop = make(Edges())
    sequence = ToySequence(DecodeMode.SPECULATIVE, draft_length=None)
    gains = (0.9,) * 6
    run(loop, sequence, reads_prompts=True)
    assert loop.controller.worth(1, gains, batch=1) == 6  # no forward's time is known
    run(loop, sequence)
    run(loop, sequence)
    loop.controller.observe_forward(7, 100.0)
    assert loop.controller.worth(1, gains, batch=1) < 6


def test_the_width_is_the_drafters_until_it_is_replaced() -> None:
    loop = make(Edges())
    run(loop, ToySequence(DecodeMode.SPECULATIVE))
    assert loop.width is None
    loop.set_draft_steps((1.0, 0.5), width=2)
    run(loop, ToySequence(DecodeMode.SPECULATIVE))
    assert loop.width == 2


def test_more_of_a_draft_is_waited_for_as_long_as_its_next_token_is_worth() -> None:
    edges = Edges()
    loop, sequence = make(edges), ToySequence(DecodeMode.OUTCOMES)
    run(loop, sequence)
    assert edges.patience_s == []  # the whole draft is there
    edges.partial = True
    run(loop, sequence)
    # Seven tokens in the last four seconds; the next token is the second of a draft.
    (patience_s,) = edges.patience_s
    assert 0 < patience_s < 2.0


def test_nothing_is_waited_for_where_the_verdict_was_not_foreseen() -> None:
    edges = Edges(answers=False)
    loop, sequence = make(edges), ToySequence(DecodeMode.OUTCOMES)
    for _ in range(3):
        run(loop, sequence)
    assert edges.patience_s == []


class Wrong(Edges):
    """Rejects every draft."""

    def verdicts(self, works: Items[Work]) -> Items[tuple[Work, Verdict]]:
        return [(work, Verdict(num_accepted=0, next_token=RIGHT + 1)) for work in works]


def test_a_verdict_that_no_draft_was_made_for_is_answered_by_a_look_up() -> None:
    edges = Wrong()
    edges.copy = LookedUp(token_ids=(5, 6), gains=(0.8, 0.6))
    loop, sequence = make(edges), ToySequence(DecodeMode.OUTCOMES)
    run(loop, sequence)
    assert edges.steps[-1] == "look up"
    assert sequence.state.in_flight.token_ids == (5, 6)
    alpha = loop.controller.acceptance(1)
    work = run(loop, sequence)
    assert work.score is not None
    assert work.score.token_ids == (RIGHT + 1, 5, 6)
    assert work.commit is not None
    assert work.commit.rejected
    assert loop.controller.acceptance(1) == alpha  # it tells nothing of the drafter


@pytest.mark.parametrize(
    ("gains", "num_remaining", "mode"),
    [
        ((0.2, 0.1), 100, DecodeMode.OUTCOMES),  # unlikely
        ((0.8, 0.6), 3, DecodeMode.OUTCOMES),  # longer than what may still be generated
        ((0.8, 0.6), 100, DecodeMode.PEARL),
    ],
)
def test_no_look_up_is_tested_that_is_unlikely_too_long_or_not_asked_for(
    gains: tuple[float, ...], num_remaining: int, mode: DecodeMode
) -> None:
    edges = Wrong()
    edges.copy = LookedUp(token_ids=(5, 6), gains=gains)
    loop, sequence = make(edges), ToySequence(mode, num_remaining=num_remaining)
    run(loop, sequence)
    assert len(sequence.state.in_flight) == 0
    assert ("look up" in edges.steps) is (mode is DecodeMode.OUTCOMES)


def test_a_verdict_that_a_draft_was_made_for_is_not_looked_up() -> None:
    edges = Edges()
    loop, sequence = make(edges), ToySequence(DecodeMode.OUTCOMES)
    run(loop, sequence)
    assert "look up" not in edges.steps
