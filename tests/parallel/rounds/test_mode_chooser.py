"""Modes are chosen by prediction, corrected by what was committed."""

from collections.abc import Mapping
from itertools import pairwise

from parallel.decoding.types import DecodeMode
from parallel.rounds.mode_chooser import ModeChooser

SPECULATIVE, PEARL, PLAIN = DecodeMode.SPECULATIVE, DecodeMode.PEARL, DecodeMode.AUTOREGRESSIVE
MODES = (SPECULATIVE, PEARL, PLAIN)
Paces = Mapping[DecodeMode, float]
"""Tokens per second."""


class Requests:
    """Requests whose modes have these paces, predicted and real."""

    def __init__(self, predicted: Paces | None, real: Paces) -> None:
        self.predicted, self.real = predicted, real
        self.chooser = ModeChooser(MODES, self.predict)

    def predict(self, request: int, mode: DecodeMode) -> float | None:  # noqa: ARG002
        return None if self.predicted is None else self.predicted[mode]

    def run(self, request: int, num: int) -> list[DecodeMode]:
        """Run rounds of 0.1 s, and return their modes."""
        chosen = []
        for _ in range(num):
            mode = self.chooser.choose(request)
            chosen.append(mode)
            self.chooser.observe(request, mode, round(self.real[mode] * 0.1), 0.1)
        return chosen


def paces(speculative: float, pearl: float, plain: float) -> Paces:
    return {SPECULATIVE: speculative, PEARL: pearl, PLAIN: plain}


def test_the_first_mode_runs_until_costs_are_known() -> None:
    requests = Requests(None, paces(30, 40, 10))
    assert set(requests.run(1, 30)) == {SPECULATIVE}
    requests.predicted = requests.real
    assert set(requests.run(1, 60)) == {PEARL}


def test_a_mode_that_cannot_be_the_best_is_not_tried() -> None:
    requests = Requests(paces(30, 40, 10), paces(30, 40, 10))
    assert PLAIN not in requests.run(1, 900)


def test_a_prediction_that_does_not_come_true_is_corrected() -> None:
    """Drafter and target share cores: overlapped rounds are slower than any formula says."""
    requests = Requests(paces(30, 40, 20), paces(30, 10, 20))
    chosen = requests.run(1, 200)
    assert PEARL in chosen[:60]
    assert set(chosen[80:]) == {SPECULATIVE}


def test_another_request_starts_with_what_all_have_shown() -> None:
    requests = Requests(paces(30, 40, 20), paces(30, 10, 20))
    requests.run(1, 200)
    requests.chooser.forget(1)
    assert requests.run(2, 20) == [SPECULATIVE] * 20


def test_predictions_that_change_change_the_mode_within_a_few_rounds() -> None:
    requests = Requests(paces(30, 40, 20), paces(30, 40, 20))
    assert requests.run(1, 100)[-1] is PEARL
    requests.predicted = requests.real = paces(10, 10, 20)
    assert set(requests.run(1, 50)[10:]) == {PLAIN}


def test_equal_modes_do_not_take_turns() -> None:
    requests = Requests(paces(40, 40.1, 10), paces(40, 40, 10))
    chosen = requests.run(1, 390)[60:]
    changes = sum(a is not b for a, b in pairwise(chosen))
    assert changes <= 2


def test_rounds_without_a_time_count_for_nothing() -> None:
    requests = Requests(paces(30, 40, 20), paces(30, 40, 20))
    for seconds in (0.0, float("nan"), float("inf"), -1.0):
        requests.chooser.choose(1)
        requests.chooser.observe(1, PEARL, 0, seconds)
    assert requests.run(1, 50) == [PEARL] * 50
