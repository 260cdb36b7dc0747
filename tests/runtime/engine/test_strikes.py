"""A drafter that fails now and then is kept, one that fails often is dropped."""

import pytest

from runtime.engine.strikes import Strikes


@pytest.mark.parametrize(("every", "is_dropped"), [(20, False), (12, True), (2, True)])
def test_one_fault_in_twenty_answers_is_tolerated(every: int, is_dropped: bool) -> None:
    strikes = Strikes()
    for number in range(1, 2000):
        if number % every:
            strikes.good()
        else:
            strikes.fault()
    assert strikes.is_out == is_dropped


def test_five_faults_in_a_row_and_three_silences_are_too_many() -> None:
    faulty, silent = Strikes(), Strikes()
    for number in range(5):
        assert not faulty.is_out
        faulty.fault()
        if number < 3:
            assert not silent.is_out
            silent.silence()
    assert faulty.is_out
    assert silent.is_out


def test_faults_are_logged_ever_less_often() -> None:
    strikes = Strikes()
    assert [n for n in range(1, 100) if strikes.fault()] == [1, 2, 4, 8, 16, 32, 64]
