"""Planning how many layers run at a time: the cost of a step, what is tried, what is kept."""

import pytest

from parallel.decoding.layer_width import StackTimes, WidthPlan, worthwhile_widths

TIMES = StackTimes(attention_s=2.0, gather_s=0.5, mlp_s=1.0, head_s=3.0)


@pytest.mark.parametrize(
    ("width", "size", "expected"),
    [
        (1, 1, 3 + 10 * 3.5),
        (1, 4, 3 + 10 * 3.5),  # one layer at a time gains nothing from ranks
        (2, 2, 3 + 10 + 5 * 2.5),
        (4, 4, 3 + 10 + 3 * 2.5),
        (4, 2, 3 + 10 + 2 * 4.5 + 2.5),  # two ranks take two turns each, the last group one
        (4, 1, 3 + 10 + 2 * 8.5 + 4.5),
        (20, 5, 3 + 10 + 4.5),
    ],
)
def test_a_step_costs_its_turns_and_exchanges(width: int, size: int, expected: float) -> None:
    assert TIMES.step_s(width, num_layers=10, size=size) == pytest.approx(expected)


def test_sequential_layers_cost_an_exchange_each() -> None:
    seconds = TIMES.step_s(4, num_layers=10, size=4, first=3)
    assert seconds == pytest.approx(3 + 10 + 3 * 2.5 + 2 * 2.5)  # three alone, four and three


def test_only_widths_that_save_time_are_tried() -> None:
    assert worthwhile_widths((10.0, 9.9, 6.0, 6.1, 5.0)) == [1, 3, 5]
    assert worthwhile_widths((10.0, 11.0)) == [1]
    assert worthwhile_widths(()) == []


def test_without_a_choice_the_width_is_what_was_fixed() -> None:
    assert WidthPlan().choose() is None
    assert WidthPlan(fixed=3).choose() == 3
    assert WidthPlan((2.0, 1.0), fixed=2).choose() == 2


@pytest.mark.parametrize("best", [1, 2, 4])
def test_the_width_with_the_most_tokens_per_second_is_found(best: int) -> None:
    plan = WidthPlan((8.0, 6.0, 5.9, 4.0))
    chosen = []
    for _ in range(200):
        width = plan.choose()
        chosen.append(width)
        plan.observe(width, 3 if width == best else 2, 1.0)
    assert set(chosen) == {1, 2, 4}
    assert chosen[-100:].count(best) == 100


def test_a_drafts_time_is_predicted_with_one_exact_step() -> None:
    plan = WidthPlan((8.0, 6.0))
    assert plan.predicted_s(2, 4) == 8.0 + 3 * 6.0
    assert plan.predicted_s(1, 1) == 8.0
    assert plan.predicted_s(None, 4) == plan.predicted_s(3, 4) == plan.predicted_s(2, 0) == 0.0
