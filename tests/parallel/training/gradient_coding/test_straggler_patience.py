"""Deadlines of a round, from the times of the workers that were fast."""

import math

import pytest

from parallel.training.gradient_coding.straggler_patience import StragglerPatience


def test_no_deadline_before_the_fastest_eighth_has_finished() -> None:
    patience = StragglerPatience(mu=0.5)
    assert patience.deadline_s([], 4) == math.inf
    assert patience.deadline_s([2.0], 16) == math.inf
    assert patience.deadline_s([2.0], 15) == 3.0


def test_the_slowest_of_the_fastest_eighth_sets_the_deadline() -> None:
    patience = StragglerPatience(mu=1.0)
    assert patience.deadline_s([9.0, 3.0, 1.0], 24) == 18.0
    assert patience.deadline_s([9.0, 3.0, 1.0], 16) == 6.0
    assert patience.deadline_s([9.0, 3.0, 1.0], 8) == 2.0


def test_one_lucky_worker_shortens_a_deadline_by_half_at_most() -> None:
    patience = StragglerPatience(mu=0.0)
    patience.end_round([4.0, 5.0], 2)
    assert patience.deadline_s([0.1], 2) == 2.0
    assert patience.deadline_s([6.0], 2) == 6.0


def test_usual_times_follow_the_rounds_slowly() -> None:
    patience = StragglerPatience(mu=0.0)
    patience.end_round([4.0], 1)
    patience.end_round([9.0], 1)  # 0.8 * 4 + 0.2 * 9 = 5
    assert patience.deadline_s([0.0], 1) == pytest.approx(2.5)
    patience.end_round([], 1)  # a round that no worker finished changes nothing
    assert patience.deadline_s([0.0], 1) == pytest.approx(2.5)
