"""Layers are put in groups whose attention runs at the same time."""

import pytest

from parallel.decoding.layer_groups import layer_groups


def test_the_last_group_takes_the_layers_that_are_left() -> None:
    assert layer_groups(7, 3) == [range(3), range(3, 6), range(6, 7)]
    assert layer_groups(6, 3) == [range(3), range(3, 6)]
    assert layer_groups(2, 8) == [range(2)]


def test_layers_before_the_first_grouped_one_run_alone() -> None:
    assert layer_groups(7, 3, first=2) == [range(1), range(1, 2), range(2, 5), range(5, 7)]
    assert layer_groups(2, 3, first=5) == [range(1), range(1, 2)]


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("first", range(9))
def test_every_layer_is_in_exactly_one_group_in_order(width: int, first: int) -> None:
    groups = layer_groups(8, width, first)
    assert [layer for group in groups for layer in group] == list(range(8))
