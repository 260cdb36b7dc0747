"""Patterns of stragglers against their definitions by enumeration; drawn ones by their rates."""

from itertools import product

import numpy as np
import pytest

from parallel.training.gradient_coding.patterns import Arbitrary, Bursty, GilbertElliott, History


def histories(num_rounds: int, num_workers: int) -> list[History]:
    cells = product([False, True], repeat=num_rounds * num_workers)
    return [np.array(cell, dtype=np.bool_).reshape(num_rounds, num_workers) for cell in cells]


def is_bursty(history: History, *, burst: int, window: int, most: int) -> bool:
    """Return whether every window has few stragglers, each within one burst."""
    for first in range(len(history)):
        rows = history[first : first + window]
        if sum(column.any() for column in rows.T) > most:
            return False
        for column in rows.T:
            late = np.flatnonzero(column)
            if len(late) and late[-1] - late[0] >= burst:
                return False
    return True


@pytest.mark.parametrize(("burst", "window", "most"), [(1, 2, 1), (1, 3, 1), (2, 3, 1), (2, 3, 2)])
def test_bursts_conform_exactly_when_every_window_does(burst: int, window: int, most: int) -> None:
    pattern = Bursty(burst=burst, window=window, most=most)
    for history in histories(4, 2):
        in_order = all(pattern.conforms(history[:end]) for end in range(1, 5))
        assert in_order == is_bursty(history, burst=burst, window=window, most=most)


def test_arbitrary_stragglers_conform_exactly_when_every_window_does() -> None:
    pattern = Arbitrary(times=2, window=3, most=1)
    for history in histories(4, 2):
        in_order = all(pattern.conforms(history[:end]) for end in range(1, 5))
        windows = [history[first : first + 3] for first in range(4)]
        expected = all(
            rows.any(axis=0).sum() <= 1 and rows.sum(axis=0).max() <= 2 for rows in windows
        )
        assert in_order == expected


def test_drawn_workers_turn_slow_and_fast_at_their_rates() -> None:
    drawn = GilbertElliott(p_slow=0.1, p_fast=0.4).draw(4000, 8, seed=3)
    assert drawn.mean() == pytest.approx(0.1 / 0.5, abs=0.02)
    before, after = drawn[:-1], drawn[1:]
    assert after[~before].mean() == pytest.approx(0.1, abs=0.01)
    assert (~after[before]).mean() == pytest.approx(0.4, abs=0.02)


def test_the_same_seed_draws_the_same_history() -> None:
    model = GilbertElliott(p_slow=0.2, p_fast=0.5)
    assert np.array_equal(model.draw(9, 5, seed=1), model.draw(9, 5, seed=1))
    assert not np.array_equal(model.draw(9, 5, seed=1), model.draw(9, 5, seed=2))
