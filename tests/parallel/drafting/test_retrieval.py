"""The store finds what a scan of its texts finds, and copies what followed most often."""

import random

import pytest

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


def test_the_longest_suffix_counts() -> None:
    store = build_store([[1, 2, 3, 4], [9, 3, 5]], END)
    length, places = store.longest([7, 1, 2, 3])
    assert (length, places.tolist()) == (3, [3])
    assert store.longest([3])[0] == 0  # one token is too little context


def test_a_store_of_nothing_is_rejected() -> None:
    with pytest.raises(ValueError, match="no text"):
        build_store([[], []], END)
