"""A drafter's sequence rolls back to what stays valid, and counts only that as cached."""

import pytest

from parallel.decoding.types import RngKey, SamplingParams, SparseProbs
from parallel.messages import DraftItem, DraftOpen
from runtime.drafters.draft_sequence import DraftSequence
from runtime.drafters.lookup_drafting import Lookups
from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS


def sequence(*, penalty: float = 1.0, num_cached: int = 0) -> DraftSequence:
    opened = DraftOpen(
        request=1,
        key=RngKey(seed=0, request=0),
        sampling=SamplingParams(repetition_penalty=penalty),
        num_prompt=2,
        capacity=100,
        send_probs=False,
    )
    return DraftSequence(opened, num_cached=num_cached, num_exact=num_cached)


def item(tail: tuple[int, ...], *, keep: int = 0) -> DraftItem:
    return DraftItem(request=1, epoch=0, keep=keep, tail=tail, num_draft=3)


def test_a_rejected_draft_is_removed_from_tokens_and_cache() -> None:
    found = sequence()
    lookups = Lookups(NO_LOOKUPS)
    found.follow(item((1, 2, 3)), lookups)
    found.add(4, None)
    found.add(5, SparseProbs(ids=(5,), probs=(1.0,)))
    found.num_cached = found.num_exact = 4
    assert found.proposal(item((1, 2, 3)), 1).token_ids == (5,)
    assert found.proposal(item((1, 2, 3)), 1).base == 4
    found.follow(item((9,), keep=3), lookups)
    assert found.token_ids == [1, 2, 3, 9]
    assert (found.num_cached, found.num_exact) == (3, 3)
    assert (found.draft, found.draft_probs, found.position) == ([], [], 2)


def test_a_shared_prefix_is_cached_from_the_start() -> None:
    found = sequence(num_cached=2)
    found.follow(item((1, 2, 3)), Lookups(NO_LOOKUPS))
    assert (found.num_cached, found.num_exact) == (2, 2)


def test_approximate_tokens_are_read_again() -> None:
    found = sequence()
    found.follow(item((1, 2, 3)), Lookups(NO_LOOKUPS))
    found.num_cached, found.num_exact = 3, 1
    found.follow(item((4,), keep=3), Lookups(NO_LOOKUPS))
    assert (found.num_cached, found.num_exact) == (1, 1)


@pytest.mark.parametrize(("tokens", "copied"), [((1, 2, 3, 4, 1, 2, 3), True), ((1, 2, 3), False)])
def test_a_draft_is_copied_after_a_long_match_only(tokens: tuple[int, ...], copied: bool) -> None:
    found = sequence()
    found.follow(item(tokens), Lookups(NO_LOOKUPS))
    assert found.copy(2) is copied
    assert found.draft == ([4, 1] if copied else [])


def test_only_a_penalty_needs_the_tokens() -> None:
    for penalty, penalized in ((1.0, []), (1.5, [1, 2])):
        found = sequence(penalty=penalty)
        found.follow(item((1, 2)), Lookups(NO_LOOKUPS))
        assert found.penalized == penalized
