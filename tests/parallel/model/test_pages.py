"""Page bookkeeping: no page has two owners, and what is freed comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel.model.pages import CacheFull, PageAllocator, PageTable


@given(
    num_pages=st.integers(0, 24),
    requests=st.lists(st.tuples(st.booleans(), st.integers(1, 8)), max_size=40),
)
def test_no_page_has_two_owners_and_freeing_restores_all(
    num_pages: int, requests: list[tuple[bool, int]]
) -> None:
    allocator = PageAllocator(num_pages)
    held: list[list[int]] = []
    for takes, count in requests:
        free = num_pages - sum(map(len, held))
        assert allocator.num_free == free
        if takes and count > free:
            with pytest.raises(CacheFull) as refusal:
                allocator.allocate(count)
            assert (refusal.value.needed_pages, refusal.value.free_pages) == (count, free)
        elif takes:
            pages = allocator.allocate(count)
            assert len(pages) == count
            assert pages == sorted(pages)
            held.append(pages)
        elif held:
            allocator.free(held.pop(count % len(held)))
        owned = [page for pages in held for page in pages]
        assert len(owned) == len(set(owned))
        assert set(owned) <= set(range(num_pages))
    for pages in held:
        allocator.free(pages)
    assert allocator.num_free == num_pages
    if num_pages:
        assert allocator.allocate(num_pages) == list(range(num_pages))


def test_the_first_run_that_is_long_enough_is_taken() -> None:
    allocator = PageAllocator(10)
    taken = [allocator.allocate(1) for _ in range(10)]
    for page in (0, 1, 3, 4, 5, 7, 8, 9):
        allocator.free(taken[page])
    assert allocator.allocate(3) == [3, 4, 5]
    assert allocator.allocate(2) == [0, 1]
    assert allocator.allocate(3) == [7, 8, 9]


def test_scattered_pages_are_taken_when_there_is_no_run() -> None:
    allocator = PageAllocator(5)
    taken = [allocator.allocate(1) for _ in range(5)]
    for page in (0, 2, 4):
        allocator.free(taken[page])
    assert allocator.allocate(2) == [0, 2]


@given(st.sets(st.integers(0, 30), min_size=1), st.integers(1, 5), st.data())
def test_places_follow_the_pages(pages: set[int], page_size: int, data: st.DataObject) -> None:
    table = PageTable(sorted(pages), page_size)
    first = data.draw(st.integers(0, table.capacity))
    stop = data.draw(st.integers(first, table.capacity))
    every = [page * page_size + i for page in sorted(pages) for i in range(page_size)]
    assert table.addresses(first, stop) == every[first:stop]
    assert table.is_contiguous == (max(pages) - min(pages) + 1 == len(pages))


def test_the_rejection_says_how_many_pages_are_needed_and_free() -> None:
    with pytest.raises(CacheFull, match="5 cache pages are needed, 4 are free"):
        PageAllocator(4).allocate(5)
