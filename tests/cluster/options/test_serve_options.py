"""How many drafters an administrator may choose."""

from cluster.options.model_options import ModelOptions
from cluster.options.serve_options import ServeOptions


def test_the_number_of_drafters_is_fixed_without_a_maximum() -> None:
    assert ServeOptions(models=ModelOptions(drafters=3)).drafter_bounds == (3, 3)


def test_a_maximum_lets_an_administrator_choose_any_number_below() -> None:
    assert ServeOptions(max_drafters=4).drafter_bounds == (0, 4)
