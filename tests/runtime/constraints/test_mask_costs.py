from collections.abc import Iterator
from itertools import count

import pytest

from parallel.decoding.constraint import ConstraintBroken
from runtime.constraints.mask_costs import MaskCosts, percentiles, replayed
from tests.support.automata import AutomatonState, text

END, A, B = range(3)
TOKENS = (None, b"a", b"b")


class Clock:
    """Advances by 1, 2, 3, ... seconds from reading to reading."""

    def __init__(self) -> None:
        self._steps: Iterator[int] = count()
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += next(self._steps)
        return self._now_s


def costs(*outputs: tuple[int, ...]) -> MaskCosts:
    state = AutomatonState(text("aba"), TOKENS)
    return replayed(lambda: state, outputs, end_ids=frozenset((END,)), now_s=Clock())


def test_every_step_of_an_output_is_timed() -> None:
    found = costs((A, B, A, END), (A,))
    assert found.first_s == (1.0,)
    assert found.advance_s == (3.0, 5.0, 7.0, 10.0)
    assert found.mask_s == (4.0, 6.0, 8.0, 11.0)
    assert (found.num_complete, found.num_outputs) == (1, 2)


def test_an_output_that_breaks_its_constraint_is_an_error() -> None:
    with pytest.raises(ConstraintBroken):
        costs((A, A))


def test_percentiles_are_those_of_the_sorted_times() -> None:
    assert percentiles(tuple(float(n) for n in range(101))) == (50.0, 99.0)
    assert percentiles((3.0,)) == (3.0, 3.0)
    assert percentiles(()) == (0.0, 0.0)
