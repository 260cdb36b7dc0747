"""Pages shared by sequences that begin alike: what is found, kept, and given up."""

import random

import pytest

from parallel.model.pages import CacheFull
from parallel.model.prefix import SharedPages


def opened(shared: SharedPages, tokens: list[int]) -> tuple[list[int], int]:
    """Open a sequence over these tokens and return its pages, and how many it found."""
    found = shared.match(tokens)
    shared.use(found)
    missing = -(-len(tokens) // shared.page_size) - len(found)
    return found + shared.allocate(missing), len(found)


def test_whole_pages_of_a_common_beginning_are_found() -> None:
    shared = SharedPages(8, 4)
    first, _ = opened(shared, list(range(10)))
    shared.record(first, list(range(10)))
    second, found = opened(shared, [*range(9), 77, 78])
    assert found == 2
    assert second[:2] == first[:2]
    assert second[2] != first[2]


def test_what_differs_in_its_first_page_shares_nothing() -> None:
    shared = SharedPages(8, 4)
    pages, _ = opened(shared, [1, 2, 3, 4, 5, 6, 7, 8])
    shared.record(pages, [1, 2, 3, 4, 5, 6, 7, 8])
    assert shared.match([9, 2, 3, 4, 5, 6, 7, 8]) == []


def test_pages_outlive_their_user_until_the_room_is_needed() -> None:
    shared = SharedPages(4, 4)
    pages, _ = opened(shared, [1] * 8)
    shared.record(pages, [1] * 8)
    shared.release(pages)
    assert shared.num_available == 4
    assert shared.match([1] * 8) == pages
    others = shared.allocate(3)  # one of the two must go: the end of the sequence
    assert shared.match([1] * 8) == pages[:1]
    shared.release(others)
    shared.allocate(4)
    assert shared.match([1] * 8) == []


def test_what_followed_a_page_that_was_used_again_is_not_found() -> None:
    shared = SharedPages(3, 2)
    pages, _ = opened(shared, [1, 1, 2, 2])
    shared.record(pages, [1, 1, 2, 2])
    shared.release(pages[:1])  # only for the test: the first page is given up before the second
    again = shared.allocate(2)
    shared.record(again, [1, 1])
    assert shared.match([1, 1, 2, 2]) == again[:1]


def test_more_than_there_is_cannot_be_taken() -> None:
    shared = SharedPages(2, 4)
    with pytest.raises(CacheFull, match="3 cache pages are needed, 2 are free"):
        shared.allocate(3)


def test_no_page_in_use_is_ever_given_out_again() -> None:
    """Random openings, notes and releases; contents are checked against a copy."""
    draw = random.Random(4)
    shared = SharedPages(24, 3)
    store: dict[int, tuple[int, ...]] = {}
    live: list[tuple[list[int], list[int]]] = []
    num_shared = 0
    for _ in range(3000):
        tokens = [draw.randrange(2) for _ in range(draw.randrange(1, 20))]
        needed = -(-len(tokens) // 3)
        matched = shared.match(tokens)
        if needed - len(matched) <= shared.available_beside(matched) and draw.random() < 0.6:
            pages, found = opened(shared, tokens)
            num_shared += found
            for index, page in enumerate(pages):
                part = tuple(tokens[index * 3 : index * 3 + 3])
                if index < found:
                    assert store[page] == part
                else:
                    assert all(page not in held for held, _ in live), "two users, one not asked"
                    store[page] = part
            shared.record(pages, tokens)
            live.append((pages, tokens))
        elif live:
            pages, _ = live.pop(draw.randrange(len(live)))
            shared.release(pages)
        in_use = {page for pages, _ in live for page in pages}
        assert shared.num_available == 24 - len(in_use)
    assert num_shared > 500
