"""A proposal is bounded before its values are read: a huge one would stop the leader."""

import pytest

from parallel.decoding.types import SparseProbs
from parallel.messages import Proposal, ProposalItem
from runtime.errors import ProtocolError
from runtime.links.codec import decode, encode

NOTHING = ProposalItem(request=1, epoch=0, base=0, token_ids=())


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ((NOTHING,) * 4097, "4097 items, 4096 at most"),
        (
            (ProposalItem(request=1, epoch=0, base=0, token_ids=(1,) * 65537),),
            "65537 draft tokens, 65536 at most",
        ),
        (
            (
                ProposalItem(
                    request=1,
                    epoch=0,
                    base=0,
                    token_ids=(1,) * 17,
                    draft_probs=(SparseProbs(ids=(1,) * 62000, probs=(0.0,) * 62000),) * 17,
                ),
            ),
            "1054000 draft probabilities, 1048576 at most",
        ),
    ],
)
def test_a_proposal_that_is_far_too_large_is_rejected(
    items: tuple[ProposalItem, ...], words: str
) -> None:
    proposal = Proposal(round=1, items=items, draft_s=0.0)
    with pytest.raises(ProtocolError, match=words):
        decode(encode(proposal))
