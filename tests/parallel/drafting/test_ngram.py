"""The n-gram drafter against a plain backward scan."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel.drafting.ngram import NgramIndex, propose

TOKENS = st.lists(st.integers(0, 2), max_size=40)


def scan(history: Sequence[int], num_draft: int, max_ngram: int) -> tuple[int, ...]:
    """Find the longest suffix's latest earlier occurrence, the slow way."""
    for size in range(min(max_ngram, len(history)), 0, -1):
        suffix = list(history[-size:])
        for begin in range(len(history) - size - 1, -1, -1):
            if list(history[begin : begin + size]) == suffix:
                tokens = list(history)
                for index in range(num_draft):
                    tokens.append(tokens[begin + size + index])
                return tuple(tokens[len(history) :])
    return ()


def test_the_continuation_of_the_longest_match_is_copied() -> None:
    history = (1, 2, 3, 7, 7, 2, 3, 9, 1, 2, 3)
    assert propose(history, 3) == (7, 7, 2)
    assert propose(history, 3, max_ngram=2) == (9, 1, 2)


def test_the_most_recent_occurrence_wins() -> None:
    assert propose((5, 1, 5, 2, 5), 1) == (2,)


def test_a_copy_runs_on_into_itself() -> None:
    assert propose((4, 8, 4, 8), 5) == (4, 8, 4, 8, 4)
    assert propose((6, 6), 3) == (6, 6, 6)


@pytest.mark.parametrize("history", [(), (1,), (1, 2, 3)])
def test_without_a_match_nothing_is_proposed(history: tuple[int, ...]) -> None:
    assert propose(history, 4) == ()


def test_no_tokens_asked_for_are_none_given() -> None:
    assert propose((1, 1, 1), 0) == ()


@settings(deadline=None, derandomize=True)
@given(history=TOKENS, num_draft=st.integers(0, 6), max_ngram=st.integers(1, 5))
def test_the_index_agrees_with_a_scan(history: list[int], num_draft: int, max_ngram: int) -> None:
    expected = scan(history, num_draft, max_ngram)
    assert propose(history, num_draft, max_ngram=max_ngram) == expected


@settings(deadline=None, derandomize=True)
@given(steps=st.lists(st.tuples(st.integers(0, 40), TOKENS), max_size=6))
def test_rolling_back_leaves_no_trace(steps: list[tuple[int, list[int]]]) -> None:
    index, history = NgramIndex(), list[int]()
    for keep, added in steps:
        kept = min(keep, len(history))
        index.truncate(kept)
        index.append(added)
        history = history[:kept] + added
        assert len(index) == len(history)
        assert index.propose(4) == scan(history, 4, 4)


def test_bad_sizes_are_rejected() -> None:
    index = NgramIndex()
    index.append((1, 2))
    for size in (-1, 3):
        with pytest.raises(ValueError, match="cannot keep"):
            index.truncate(size)
    with pytest.raises(ValueError, match="max_ngram"):
        NgramIndex(max_ngram=0)
