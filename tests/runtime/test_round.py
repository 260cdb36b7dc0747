"""What a drafter may send is checked before it is tested."""

import pytest

from parallel.decoding.types import SparseProbs
from parallel.messages import ProposalItem
from runtime.round_drafts import usable_draft

FINE = SparseProbs(ids=(1, 2), probs=(0.25, 0.75))


@pytest.mark.parametrize(
    "law",
    [
        SparseProbs(ids=(1, 3), probs=(0.5, 0.5)),
        SparseProbs(ids=(1, 2), probs=(1.0, 0.0)),
        SparseProbs(ids=(1, 2), probs=(0.5, 0.6)),
        SparseProbs(ids=(2, 2), probs=(0.5, 0.5)),
        SparseProbs(ids=(2, 10), probs=(0.5, 0.5)),
    ],
)
def test_a_draft_ends_before_a_token_its_law_cannot_have_drawn(law: SparseProbs) -> None:
    item = ProposalItem(
        request=0, epoch=0, base=3, token_ids=(2, 2, 1), draft_probs=(FINE, law, FINE)
    )
    assert usable_draft(item, vocab_size=10).token_ids == (2,)


def test_a_draft_ends_before_a_token_the_target_does_not_know() -> None:
    item = ProposalItem(request=0, epoch=0, base=3, token_ids=(2, 9, 10, 1))
    assert usable_draft(item, vocab_size=10).token_ids == (2, 9)
