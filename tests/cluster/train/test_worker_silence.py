"""A silent worker is replaced once, and its replacement has the time to start."""

import pytest

from cluster.train.worker_silence import START_S, is_silent


@pytest.mark.parametrize(
    ("silent_s", "age_s", "expected"),
    [
        (None, 500.0, False),  # it loads its model for the first time
        (3.0, 500.0, False),
        (61.0, 500.0, True),
        (61.0, 1.0, False),  # what it replaces was silent
        (130.0, 70.0, False),  # it still starts
        (190.0, START_S + 1, True),  # it never joined
        (10.0, 70.0, False),  # it has joined
    ],
)
def test_silence_counts_from_the_start_of_a_worker(
    silent_s: float | None, age_s: float, expected: bool
) -> None:
    assert is_silent(silent_s, age_s, lost_after_s=60.0) == expected


def test_a_worker_that_hangs_is_replaced_once_before_the_next_one_joins() -> None:
    started_s, last_s, replaced = 0.0, 5.0, list[float]()
    for now_s in range(6, 100):
        if now_s == 90:
            last_s = 90.0  # the replacement joins
        if is_silent(now_s - last_s, now_s - started_s, lost_after_s=60.0):
            replaced.append(now_s)
            started_s = now_s
    assert replaced == [66.0]
