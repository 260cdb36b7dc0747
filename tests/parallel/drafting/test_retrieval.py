"""The store finds what a scan of its texts finds, and copies what followed most often."""

import random

import pytest

from parallel.drafting.recycling import SuccessorTable
from parallel.drafting.retrieval import build_store

END = 0


def scan(texts: list[list[int]], wanted: list[int]) -> list[int]:
    joined = [token for text in texts for token in [*text, END]]
    return [i for i in range(len(joined)) if joined[i : i + len(wanted)] == wanted]


def test_finds_every_place_of_a_sequence() -> None:
    rng = random.Random(3)
    texts = [[rng.randrange(1, 5) for _ in range(rng.randrange(1, 60))] for _ in range(8)]
    store = build_store(texts, END)
    for length in (1, 2, 3, 5, 9):
        for _ in range(30):
            wanted = [rng.randrange(1, 5) for _ in range(length)]
            assert sorted(store.find(wanted).tolist()) == scan(texts, wanted)


def test_order_holds_where_tokens_need_more_than_a_byte() -> None:
    texts = [[256, 1, 65536, 255, 70000, 3], [255, 70000, 4]]
    store = build_store(texts, END)
    assert sorted(store.find([255, 70000]).tolist()) == [3, 7]
    assert store.find([1, 65536]).tolist() == [1]
    assert store.find([65536, 1]).tolist() == []


def test_copies_what_followed_the_longest_match_most_often() -> None:
    store = build_store([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 5, 6], [9, 3, 7, 7]], END)
    match = store.match([8, 1, 2, 3], 3)
    assert match.length == 3
    assert match.token_ids == (5,) or match.token_ids == (5, 6)
    assert store.match([9, 3], 4).token_ids == (7, 7)  # stops where the text ends
    assert store.match([3], 4).token_ids == ()  # one token is no match
    assert store.match([6, 6], 4).token_ids == ()


def test_matches_inside_a_text_alone() -> None:
    """The end between two texts never is drafted."""
    store = build_store([[1, 2], [3, 4]], END)
    assert store.match([1, 2], 5).token_ids == ()


def test_a_store_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no text"):
        build_store([[], []], END)


def test_recycling_follows_the_best_successors() -> None:
    table = SuccessorTable()
    assert table.propose(1, 3) == ()
    table.update([(1, (2, 9)), (2, (3,)), (1, (4, 2)), (4, (5,))])
    assert table.propose(1, 3) == (4, 5)
    assert table.propose(2, 1) == (3,)
    assert table.propose(1, 0) == ()
    assert table.successors(1) == (4, 2)
    table.update([(5, (1,))])
    assert table.propose(1, 7) == (4, 5, 1, 4, 5, 1, 4)
    assert len(table) == 4
