import pytest

from parallel.rounds.cost_model import CostModel


def test_costs_are_learned_between_and_beyond_what_was_seen() -> None:
    costs = CostModel()
    assert not costs.is_known
    for positions in (1, 5, 300):
        costs.observe_forward(positions, 10.0 + 2.0 * positions)
    for steps in (2, 4, 2):
        costs.observe_draft(steps, 3.0 + 0.5 * steps)
    assert costs.is_known
    assert [costs.target_s(n) for n in (1, 3, 5, 100, 600)] == pytest.approx(
        [12, 16, 20, 210, 1210]
    )
    assert [costs.draft_s(n) for n in (1, 8)] == pytest.approx([3.5, 7.0])


def test_costs_of_one_size_alone_are_used_with_care() -> None:
    costs = CostModel()
    costs.observe_forward(4, 8.0)
    costs.observe_draft(4, 2.0)
    assert [costs.target_s(n) for n in (1, 4, 9)] == [8.0, 8.0, 8.0]
    assert [costs.draft_s(n) for n in (2, 8)] == pytest.approx([1.0, 4.0])


def test_costs_follow_a_machine_that_slows_down() -> None:
    costs = CostModel()
    for seconds in (1.0,) * 20 + (3.0,) * 30:
        costs.observe_forward(40, seconds)
        costs.observe_draft(4, seconds)
    assert costs.target_s(40) == pytest.approx(3.0, rel=0.01)
    assert costs.draft_s(4) == pytest.approx(3.0, rel=0.01)


def test_times_that_fall_with_length_never_make_a_cost_negative() -> None:
    costs = CostModel()
    for steps, seconds in ((1, 5.0), (8, 1.0), (1, 5.0), (8, 1.0)):
        costs.observe_draft(steps, seconds)
        costs.observe_forward(steps, seconds)
    for size in (0, 1, 4, 8, 50):
        assert costs.draft_s(size) >= 0
        assert costs.target_s(size) > 0
