"""What a drafter sends is checked before it is tested."""

from dataclasses import replace

import pytest

from parallel.decoding.types import DraftTree, SparseProbs
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.messages import DraftItem, DraftRequest, Proposal, ProposalItem
from runtime.engine.draft_fence import DraftFence, usable_draft, usable_outcomes

FINE = SparseProbs(ids=(1, 2), probs=(0.25, 0.75))


def usable(item: ProposalItem, *, sends_probs: bool = True) -> DraftTree:
    return usable_draft(item, 10, max_tokens=8, sends_probs=sends_probs, tree=False)[0]


@pytest.mark.parametrize(
    "next_probs",
    [
        SparseProbs(ids=(1, 3), probs=(0.5, 0.5)),
        SparseProbs(ids=(1, 2), probs=(1.0, 0.0)),
        SparseProbs(ids=(1, 2), probs=(0.5, 0.6)),
        SparseProbs(ids=(2, 2), probs=(0.5, 0.5)),
        SparseProbs(ids=(2, 10), probs=(0.5, 0.5)),
        SparseProbs(ids=(2, 3), probs=(1.5, -0.5)),
        SparseProbs(ids=(2, 3), probs=(float("nan"), 0.5)),
        SparseProbs(ids=(2, 3), probs=(1.0,)),
    ],
)
def test_a_draft_ends_before_a_token_its_distribution_cannot_have_drawn(
    next_probs: SparseProbs,
) -> None:
    item = ProposalItem(
        request=0, epoch=0, base=3, token_ids=(2, 2, 1), draft_probs=(FINE, next_probs, FINE)
    )
    assert usable(item).token_ids == (2,)
    assert usable(item, sends_probs=False).token_ids == (2, 2, 1)


def test_a_draft_ends_before_a_token_the_target_does_not_know() -> None:
    item = ProposalItem(request=0, epoch=0, base=3, token_ids=(2, 9, 10, 1))
    assert usable(item).token_ids == (2, 9)


def test_a_drafter_may_lack_only_what_it_was_not_sent() -> None:
    fence = DraftFence(vocab_size=10)
    for number, keep in ((1, 0), (2, 3)):
        item = DraftItem(request=7, epoch=0, keep=keep, tail=(1, 2), num_draft=4)
        fence.expect(DraftRequest(round=number, items=(item,)))
        answer = ProposalItem(request=7, epoch=0, base=keep + 2, token_ids=(), unknown=True)
        found = fence.check(Proposal(round=number, items=(answer,), draft_s=0.1))
        assert found.drafts[0].unknown
        assert bool(found.problems) == (keep == 0)


def test_an_answer_counts_once_and_only_if_it_was_asked_for() -> None:
    fence = DraftFence(vocab_size=10)
    item = DraftItem(request=7, epoch=0, keep=0, tail=(1, 2), num_draft=4)
    fence.expect(DraftRequest(round=5, items=(item,)))
    answer = ProposalItem(request=7, epoch=0, base=2, token_ids=(1, 2))
    for number, is_good in ((4, False), (2**63, False), (5, True), (5, False)):
        found = fence.check(Proposal(round=number, items=(answer,), draft_s=0.1))
        assert bool(found.drafts) == is_good
        assert bool(found.problems) != is_good


def test_what_is_remembered_of_a_drafter_that_never_answers_is_bounded() -> None:
    fence = DraftFence(vocab_size=10)
    for number in range(1, 1000):
        item = DraftItem(request=7, epoch=0, keep=0, tail=(1,), num_draft=1)
        fence.expect(DraftRequest(round=number, items=(item,)))
    assert len(fence._rounds) <= 32


def outcome(num_accepted: int, next_token: int, *token_ids: int, first: int = 0) -> OutcomeDraft:
    return OutcomeDraft(
        outcome=VerdictOutcome(num_accepted, next_token), first=first, token_ids=token_ids
    )


FEW = DraftItem(
    request=7, epoch=0, keep=0, tail=(1, 2, 3), num_draft=3, num_in_flight=2, num_outcomes=3
)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (outcome(3, 1), "keeps 3 of 2"),
        (outcome(-1, 1), "keeps -1 of 2"),
        (outcome(0, 10), "tokens that the target, which knows 10"),
        (outcome(0, 1, 10), "tokens that the target, which knows 10"),
        (outcome(0, 1, 1, 1, first=2), "4 tokens for an outcome, not 3"),
        (outcome(0, 1, first=-1), "tokens for an outcome"),
    ],
)
def test_outcomes_end_before_the_first_that_cannot_come_true(
    wrong: OutcomeDraft, problem: str
) -> None:
    found, told = usable_outcomes((outcome(2, 5, 1), wrong, outcome(1, 1)), FEW, 10)
    assert found == (outcome(2, 5, 1),)
    assert problem in told


def test_outcomes_that_were_not_requested_are_a_fault() -> None:
    parts = tuple(outcome(0, token) for token in range(4))
    assert usable_outcomes(parts, FEW, 10)[0] == parts[:3]
    plain = DraftItem(request=7, epoch=0, keep=0, tail=(1,), num_draft=3)
    assert usable_outcomes(parts, plain, 10) == ((), "4 outcomes, 0 were requested")


def test_an_answer_with_outcomes_may_end_after_any_part() -> None:
    fence = DraftFence(vocab_size=10)
    item = replace(FEW, stream=True)
    for number, parts in ((1, 0), (2, 1), (3, 2)):
        fence.expect(DraftRequest(round=number, items=(item,)))
        for place in range(parts):
            answer = ProposalItem(
                request=7, epoch=0, base=3 + place, token_ids=(4,), outcomes=(outcome(0, 5),)
            )
            partial = Proposal(round=number, items=(answer,), draft_s=0.1, partial=True)
            found = fence.check(partial)
            assert not found.problems
            assert found.drafts[0].outcomes == (outcome(0, 5),)
            assert not found.drafts[0].is_held
        last = fence.check(Proposal(round=number, items=(), draft_s=0.1))
        assert bool(last.problems) == (parts == 0)


def test_a_drafter_that_shares_outcomes_drafts_for_them_alone() -> None:
    fence = DraftFence(vocab_size=10)
    item = replace(FEW, stream=True, outcome_part=1, num_outcome_parts=2)
    fence.expect(DraftRequest(round=1, items=(item,)))
    for first, tokens in ((0, ()), (0, (7,)), (1, (8,))):
        part = outcome(1, 5, *tokens, first=first)
        answer = ProposalItem(request=7, epoch=0, base=3, token_ids=(), outcomes=(part,))
        found = fence.check(Proposal(round=1, items=(answer,), draft_s=0.1, partial=True))
        assert not found.problems
        assert found.drafts[0].outcomes == (part,)
    assert not fence.check(Proposal(round=1, items=(), draft_s=0.1)).problems
