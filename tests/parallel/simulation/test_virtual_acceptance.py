"""Drafts are right as often as they should be, and the same ones each time."""

import pytest

from parallel.simulation.virtual_acceptance import Chance


@pytest.mark.parametrize(("width", "share"), [(1, 0.8), (3, 0.8 * 0.9**2)])
def test_drafts_are_right_with_the_probability_of_their_width(width: int, share: float) -> None:
    chance = Chance(alpha=0.8, drop=0.1)
    right = [chance.is_right(7, position, width) for position in range(4000)]
    assert sum(right) / len(right) == pytest.approx(share, abs=0.03)
    assert right == [Chance(alpha=0.8, drop=0.1).is_right(7, p, width) for p in range(4000)]


def test_streams_seeds_and_positions_draw_by_themselves() -> None:
    drawn = {
        tuple(Chance(alpha=0.5, seed=seed).is_right(stream, first + p) for p in range(64))
        for seed in range(3)
        for stream in range(3)
        for first in (0, 1000)
    }
    assert len(drawn) == 18
    chance = Chance(alpha=0.5)
    assert {chance.token(stream=1, position=p, vocab_size=10) for p in range(200)} == set(range(10))


def test_each_further_guess_is_right_with_the_same_probability() -> None:
    chance = Chance(alpha=0.5, beta=0.6)
    counts = [chance.num_wrong_guesses(3, position, 8) for position in range(4000)]
    for rank in range(3):
        reached = [count for count in counts if count >= rank]
        assert sum(count == rank for count in reached) / len(reached) == pytest.approx(
            0.6, abs=0.05
        )
    assert Chance(alpha=0.5).num_wrong_guesses(3, 1, 8) == 8
    assert Chance(alpha=0.5, beta=1.0).num_wrong_guesses(3, 1, 8) == 0
