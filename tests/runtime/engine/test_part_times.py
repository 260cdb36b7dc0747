"""When a drafter's next part is due: after a step more than the last one, at the usual lag."""

import pytest

from runtime.engine.part_times import PartTimes


def answered(times: PartTimes, *, number: int, asked_s: float, lag_s: float, num: int) -> None:
    """Record an answer whose steps take 2 s, each part waited for."""
    times.ask(number, asked_s)
    for step in range(1, num + 1):
        times.arrive(number, 2.0 * step, asked_s + lag_s + 2.0 * step, waited=1.0)


def test_the_next_part_is_due_a_step_after_the_last_one() -> None:
    times = PartTimes()
    assert times.next_s is None
    answered(times, number=1, asked_s=10.0, lag_s=0.5, num=2)
    assert times.next_s == pytest.approx(10.0 + 0.5 + 6.0)


def test_a_new_request_has_no_part_yet_and_an_older_answer_tells_nothing_of_it() -> None:
    times = PartTimes()
    answered(times, number=1, asked_s=10.0, lag_s=0.5, num=2)
    times.ask(2, 20.0)
    assert times.next_s is None
    times.arrive(1, 6.0, 20.1, waited=0.0)
    assert times.next_s is None
    times.arrive(2, 2.0, 22.5, waited=1.0)
    assert times.next_s == pytest.approx(24.5)


def test_a_part_that_was_there_bounds_the_lag_and_one_that_was_waited_for_shows_it() -> None:
    times = PartTimes()
    answered(times, number=1, asked_s=0.0, lag_s=3.0, num=2)
    times.ask(2, 20.0)
    times.arrive(2, 2.0, 30.0, waited=0.0)  # looked for long after it came
    assert times.next_s == pytest.approx(20.0 + 3.0 + 4.0)
    times.arrive(2, 4.0, 25.0, waited=0.0)
    assert times.next_s == pytest.approx(20.0 + 1.0 + 6.0)
    times.arrive(2, 6.0, 28.0, waited=1.0)
    assert times.next_s is not None
    assert 1.0 < times.next_s - 20.0 - 8.0 < 2.0


def test_a_part_that_does_not_come_is_expected_later() -> None:
    times = PartTimes()
    times.late()
    assert times.next_s is None
    answered(times, number=1, asked_s=0.0, lag_s=0.5, num=2)
    times.late()
    assert times.next_s == pytest.approx(0.5 + 6.0 + 0.5)
