"""Trees grow where text is likely to continue, and learn how reliable their sources are."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel.drafting.ngram import NgramIndex, NgramSource
from parallel.drafting.recycling import SuccessorSource, SuccessorTable
from parallel.drafting.retrieval import StoreSource, build_store
from parallel.drafting.tree import Guess, Odds, Source, grow


class Table:
    """A source with fixed guesses after each last token."""

    def __init__(self, last: int, following: Mapping[int, Sequence[tuple[int, float]]]) -> None:
        self._last = last
        self._following = following

    def root(self) -> int:
        return self._last

    def guesses(self, state: int) -> list[Guess]:
        return [Guess(token, (state, token), p) for token, p in self._following.get(state, ())]

    def advance(self, state: int, token: int) -> int:  # noqa: ARG002  (a Source's shape)
        return token


def ngrams(*text: int) -> NgramSource:
    index = NgramIndex()
    index.append(text)
    return NgramSource(index)


def test_the_likeliest_paths_come_first() -> None:
    source = Table(0, {0: [(1, 0.6), (2, 0.3)], 1: [(3, 0.9)], 2: [(4, 0.5)], 3: [(5, 0.2)]})
    tree = grow([source], Odds(), 5, branching=True)
    assert tree.token_ids == [1, 3, 2, 4, 5]
    assert tree.parents == [-1, 0, -1, 2, 1]
    assert tree.gains == pytest.approx([0.6, 0.54, 0.3, 0.15, 0.108])
    assert grow([source], Odds(), 2, branching=True).token_ids == [1, 3]
    assert grow([source], Odds(), 0, branching=True).token_ids == []


def test_without_branching_it_is_a_chain() -> None:
    source = Table(0, {0: [(1, 0.5), (2, 0.49)], 1: [(3, 0.3)], 3: [(4, 0.9)]})
    tree = grow([source], Odds(), 9, branching=False)
    assert (tree.token_ids, tree.parents) == ([1, 3, 4], [-1, 0, 1])


def test_sources_that_agree_are_believed_more() -> None:
    first = Table(0, {0: [(1, 0.4), (2, 0.5)]})
    second = Table(0, {0: [(1, 0.4)]})
    tree = grow([first, second], Odds(), 1, branching=True)
    assert tree.token_ids == [1]
    assert tree.gains == pytest.approx([1 - 0.6 * 0.6])


def test_siblings_are_never_likelier_than_one_together() -> None:
    tree = grow([Table(0, {0: [(1, 0.8), (2, 0.7), (3, 0.6)]})], Odds(), 3, branching=True)
    assert tree.token_ids == [1, 2]
    assert tree.gains == pytest.approx([0.8, 0.2])


def test_it_learns_from_what_came_true() -> None:
    odds = Odds()
    source = Table(0, {0: [(1, 0.9), (2, 0.1)], 2: [(7, 0.2)]})
    for _ in range(100):
        grow([source], odds, 4, branching=True).learn(odds, (2, 7, 5))
    tree = grow([source], odds, 4, branching=True)
    assert tree.token_ids[:2] == [2, 7]
    assert tree.gains[1] > 0.7


LINKS = st.dictionaries(
    st.integers(0, 5), st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), max_size=3)
)


@settings(deadline=None, derandomize=True)
@given(first=LINKS, second=LINKS, budget=st.integers(0, 12), branching=st.booleans())
def test_every_tree_is_well_formed(
    first: dict[int, list[tuple[int, float]]],
    second: dict[int, list[tuple[int, float]]],
    budget: int,
    branching: bool,
) -> None:
    sources: list[Source] = [Table(0, first), Table(0, second)]
    tree = grow(sources, Odds(), budget, branching=branching)
    nodes = range(len(tree.token_ids))
    assert len(nodes) <= budget
    assert all(-1 <= tree.parents[node] < node for node in nodes)
    assert tree.gains == sorted(tree.gains, reverse=True)
    siblings = [(tree.parents[node], tree.token_ids[node]) for node in nodes]
    assert len(set(siblings)) == len(siblings)
    if not branching:
        assert tree.parents == [node - 1 for node in nodes]


def test_ngrams_continue_as_the_text_did() -> None:
    tree = grow([ngrams(1, 2, 3, 9, 1, 2, 4, 1, 2)], Odds(), 4, branching=True)
    assert tree.token_ids[0] == 4  # the latest
    assert set(tree.token_ids) >= {4, 3}
    loop = grow([ngrams(4, 8, 4, 8, 4, 8, 4, 8)], Odds(), 3, branching=False)
    assert loop.token_ids == [4, 8, 4]


def test_pairs_are_recycled_before_single_tokens() -> None:
    table = SuccessorTable()
    table.update([((1, 2), (3, 4)), ((7, 2), (5, 6)), ((2, 3), (8,))])
    assert [g.token for g in table.guesses((1, 2))] == [3, 4, 5, 6]
    assert [g.token for g in table.guesses((9, 2))] == [5, 6]
    assert table.guesses((9, 9)) == []
    tree = grow([SuccessorSource(table, (0, 1, 2))], Odds(), 2, branching=False)
    assert tree.token_ids == [3, 8]


def test_a_store_continues_as_most_of_its_texts_do() -> None:
    store = build_store([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 5, 6], [9, 3, 7, 7]], 0)
    tree = grow([StoreSource(store, (8, 1, 2, 3))], Odds(), 3, branching=True)
    assert tree.token_ids[0] == 5
    assert set(tree.token_ids) <= {5, 4, 6}
    assert grow([StoreSource(store, (9, 3))], Odds(), 4, branching=False).token_ids == [7, 7]
    assert grow([StoreSource(store, (3,))], Odds(), 4, branching=True).token_ids == []
    assert grow([StoreSource(store, (6, 6))], Odds(), 4, branching=True).token_ids == []
