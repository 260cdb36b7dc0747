"""The width that commits the most tokens per second is found."""

import pytest

from parallel.decoding.width_chooser import WidthChooser

WIDTHS = (1, 2, 4)
Pace = dict[int, tuple[int, float]]
"""Tokens and seconds of a round with each width."""


def rounds(chooser: WidthChooser, pace: Pace, num: int) -> list[int]:
    """Run rounds and return their widths."""
    chosen = []
    for _ in range(num):
        width = chooser.choose()
        chosen.append(width)
        chooser.observe(width, *pace[width])
    return chosen


def pace_of(fastest: int) -> Pace:
    return {width: (2 if width == fastest else 1, 0.05) for width in WIDTHS}


@pytest.mark.parametrize("fastest", WIDTHS)
def test_the_fastest_width_is_found_whichever_it_is(fastest: int) -> None:
    chosen = rounds(WidthChooser(WIDTHS), pace_of(fastest), 300)
    assert set(chosen[:40]) == set(WIDTHS)  # each was tried
    assert set(chosen[40:]) == {fastest}


def test_another_width_is_taken_when_it_has_become_the_fastest() -> None:
    chooser = WidthChooser(WIDTHS)
    assert rounds(chooser, pace_of(4), 300)[-1] == 4
    assert rounds(chooser, pace_of(2), 1600)[-100:] == [2] * 100


def test_little_time_is_lost_on_trying_again() -> None:
    chooser = WidthChooser(WIDTHS)
    pace = pace_of(2)
    rounds(chooser, pace, 50)
    chosen = rounds(chooser, pace, 4000)
    seconds = sum(pace[width][1] for width in chosen)
    tokens = sum(pace[width][0] for width in chosen)
    assert tokens / seconds > 0.97 * 2 / 0.05
    assert set(chosen) == set(WIDTHS)


def test_rounds_without_a_time_count_for_nothing() -> None:
    chooser = WidthChooser(WIDTHS)
    for seconds in (0.0, float("nan"), float("inf"), -1.0):
        for width in WIDTHS:
            for _ in range(30):
                chooser.observe(width, 5, seconds)
    assert chooser.choose() == WIDTHS[0]  # as if nothing had been seen
    rounds(chooser, pace_of(2), 100)
    assert chooser.choose() == 2


def test_a_single_width_is_never_changed() -> None:
    assert set(rounds(WidthChooser((3,)), {3: (2, 0.1)}, 900)) == {3}
