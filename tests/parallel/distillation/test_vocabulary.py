"""The tokens of a drafter's reduced head."""

import numpy as np
import pytest

from parallel.distillation.vocabulary import choose_head_tokens, coverage

COUNTS = np.array([0, 5, 0, 9, 5, 1, 0])


def test_the_most_frequent_tokens_are_chosen_and_sorted_by_id() -> None:
    assert choose_head_tokens(COUNTS, 1).tolist() == [3]
    assert choose_head_tokens(COUNTS, 2).tolist() == [1, 3]  # of equals, the lower id
    assert choose_head_tokens(COUNTS, 4).tolist() == [1, 3, 4, 5]


def test_tokens_never_seen_follow_by_id() -> None:
    assert choose_head_tokens(COUNTS, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert choose_head_tokens(COUNTS, 7).tolist() == list(range(7))


@pytest.mark.parametrize("size", [0, 8])
def test_a_head_larger_than_the_vocabulary_or_empty_is_rejected(size: int) -> None:
    with pytest.raises(ValueError, match=f"a head of {size} tokens: choose between 1 and 7"):
        choose_head_tokens(COUNTS, size)


def test_coverage_is_the_share_of_what_was_seen() -> None:
    assert coverage(COUNTS, np.array([1, 3])) == pytest.approx(14 / 20)
    assert coverage(np.zeros(3, dtype=np.int64), np.array([1])) == 1.0
