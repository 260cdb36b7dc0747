"""A budget of restarts: the first at once, pauses that grow, and an end."""

from runtime.restarts import RestartBudget, RestartLimits


def test_pauses_grow_up_to_a_longest_one_and_then_there_are_no_more() -> None:
    limits = RestartLimits(most=6, window_s=100, first_pause_s=1, longest_pause_s=5)
    budget = RestartBudget(limits)
    assert [budget.take(now_s) for now_s in range(7)] == [0, 1, 2, 4, 5, 5, None]


def test_what_ran_for_a_while_breaks_for_the_first_time() -> None:
    budget = RestartBudget(RestartLimits(most=9, first_pause_s=1, calm_s=10))
    assert [budget.take(0), budget.take(1)] == [0, 1]
    budget.note_running(5)
    assert budget.take(14) == 2  # it broke again at once
    budget.note_running(20)
    assert budget.take(30) == 0


def test_what_lies_back_far_enough_is_forgotten() -> None:
    budget = RestartBudget(RestartLimits(most=2, window_s=10))
    assert budget.take(0) is not None
    assert budget.take(1) is not None
    assert budget.take(9) is None
    assert budget.take(10.5) is not None  # the one at 1 s counts still
    assert budget.take(10.6) is None


def test_no_budget_is_none() -> None:
    assert RestartBudget(RestartLimits(most=0)).take(0) is None
