"""The number of outcomes follows the time that branches take and how often guesses are right."""

import pytest

from parallel.rounds.outcome_budget import CHOICES, AnswerTimes, OutcomeBudget


def chosen(budget: OutcomeBudget, *, branch_s: float, num: int = 60, length: int = 5) -> int:
    """Return what is chosen after some rounds with a step of 1 s and a forward of five."""
    found = 12
    for _ in range(num):
        budget.observe_first(1.0)
        budget.observe_step(found, 1.0 + branch_s * (found - 1))
        found = budget.choose(length, alpha=0.8, forward_s=5.0, usual=12)
    return found


def test_without_times_the_number_is_the_usual_one() -> None:
    budget = OutcomeBudget()
    assert budget.choose(5, alpha=0.8, forward_s=5.0, usual=14) == 14
    budget.observe_first(1.0)
    budget.observe_step(12, 1.0)
    assert budget.choose(5, alpha=0.8, forward_s=0.0, usual=14) == 14


def test_branches_that_cost_nothing_are_as_many_as_are_considered() -> None:
    assert chosen(OutcomeBudget(), branch_s=0.0) == max(CHOICES)


def test_the_dearer_a_branch_the_fewer_there_are() -> None:
    found = [chosen(OutcomeBudget(), branch_s=cost) for cost in (0.0, 0.02, 0.1, 0.5)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == min(CHOICES)


def test_a_drafter_that_guesses_badly_gets_fewer() -> None:
    """Its further guesses are worth little, and each costs."""
    good, bad = OutcomeBudget(), OutcomeBudget()
    for _ in range(100):
        good.observe_rejection(is_hit=True, guesses=2.0)
        bad.observe_rejection(is_hit=False, guesses=2.0)
    assert bad.catch < 0.1 < 0.8 < good.catch
    assert chosen(bad, branch_s=0.05) < chosen(good, branch_s=0.05)


@pytest.mark.parametrize("catch", [0.2, 0.65])
def test_the_catch_is_learned(catch: float) -> None:
    budget = OutcomeBudget()
    for number in range(2000):
        is_hit = (number * 0.618034) % 1 < 1 - (1 - catch) ** 3
        budget.observe_rejection(is_hit=is_hit, guesses=3.0)
    assert budget.catch == pytest.approx(catch, abs=0.1)


def test_a_larger_number_is_tried_again_after_a_while() -> None:
    budget = OutcomeBudget()
    budget.observe_first(1.0)
    for num in CHOICES:
        budget.observe_step(num, 1.0 + 0.1 * num)
    found = [budget.choose(5, alpha=0.8, forward_s=5.0, usual=12) for _ in range(200)]
    usual = max(set(found), key=found.count)
    assert 1 <= sum(num > usual for num in found) <= 4


def test_steps_are_timed_by_the_parts_of_answers() -> None:
    """Two answers side by side; what repeats a part, comes late or reads a prompt tells nothing."""
    budget = OutcomeBudget()
    times = AnswerTimes(budget)
    times.ask(1, 2, reads_prompt=True)
    times.ask(2, 24, reads_prompt=False)
    for number, num_steps, worked_s in ((1, 1, 50.0), (2, 1, 1.0), (1, 2, 51.0), (2, 2, 5.0)):
        times.arrive(number, num_steps, worked_s, is_last=False)
    times.arrive(2, 2, 5.0, is_last=True)
    times.arrive(2, 3, 100.0, is_last=True)
    times.arrive(9, 2, 100.0, is_last=True)
    twin = OutcomeBudget()
    twin.observe_first(1.0)
    twin.observe_step(2, 1.0)
    twin.observe_step(24, 4.0)
    for length in (3, 5, 9):
        found = [b.choose(length, alpha=0.8, forward_s=9.0, usual=12) for b in (budget, twin)]
        assert found[0] == found[1]
