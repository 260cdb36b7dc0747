"""What a drafter sends is checked before it is tested."""

import pytest

from parallel.decoding.types import DraftTree, SparseProbs
from parallel.messages import ProposalItem
from runtime.draft_fence import usable_draft

FINE = SparseProbs(ids=(1, 2), probs=(0.25, 0.75))


def usable(item: ProposalItem, *, sends_probs: bool = True) -> DraftTree:
    return usable_draft(item, 10, most=8, sends_probs=sends_probs, tree=False)[0]


@pytest.mark.parametrize(
    "law",
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
def test_a_draft_ends_before_a_token_its_law_cannot_have_drawn(law: SparseProbs) -> None:
    item = ProposalItem(
        request=0, epoch=0, base=3, token_ids=(2, 2, 1), draft_probs=(FINE, law, FINE)
    )
    assert usable(item).token_ids == (2,)
    assert usable(item, sends_probs=False).token_ids == (2, 2, 1)


def test_a_draft_ends_before_a_token_the_target_does_not_know() -> None:
    item = ProposalItem(request=0, epoch=0, base=3, token_ids=(2, 9, 10, 1))
    assert usable(item).token_ids == (2, 9)
