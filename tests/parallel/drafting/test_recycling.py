"""Successors that the target ranked best before."""

from parallel.drafting.recycling import SuccessorSource, SuccessorTable


def tokens(table: SuccessorTable, *context: int) -> list[int]:
    return [guess.token for guess in table.guesses(context)]


def test_successors_of_the_pair_come_before_those_of_the_last_token() -> None:
    table = SuccessorTable()
    table.update([((1, 2), (7, 8, 9)), ((5, 2), (8, 6))])
    assert tokens(table, 1, 2) == [7, 8, 6]  # the third of a pair is not kept, 8 is named once
    assert tokens(table, 5, 2) == [8, 6]
    assert tokens(table, 4, 2) == [8, 6]  # an unknown pair has its last token alone
    assert tokens(table, 4, 3) == []


def test_the_latest_scores_replace_earlier_ones() -> None:
    table = SuccessorTable()
    table.update([((1, 2), (7, 8))])
    table.update([((1, 2), (9,))])
    assert tokens(table, 1, 2) == [9]


def test_a_context_of_one_token_is_not_a_pair() -> None:
    table = SuccessorTable()
    table.update([((2,), (7, 8))])
    guesses = table.guesses((2,))
    assert [(guess.token, guess.kind) for guess in guesses] == [
        (7, ("token", 0, False)),
        (8, ("token", 1, False)),
    ]


def test_a_source_walks_on_with_each_drafted_token() -> None:
    table = SuccessorTable()
    table.update([((1, 2), (3,)), ((2, 3), (4,))])
    source = SuccessorSource(table, [9, 1, 2])
    state = source.root()
    assert state == (1, 2)
    assert [guess.token for guess in source.guesses(state)] == [3]
    state = source.advance(state, 3)
    assert [guess.token for guess in source.guesses(state)] == [4]
    assert SuccessorSource(table, [2]).root() == (2,)
