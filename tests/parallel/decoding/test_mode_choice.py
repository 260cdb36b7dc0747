"""The mode that commits the most tokens per second is found, for each request."""

from parallel.decoding.mode_choice import PaceChooser
from parallel.decoding.types import DecodeMode

MODES = (DecodeMode.SPECULATIVE, DecodeMode.PEARL, DecodeMode.AUTOREGRESSIVE)
Pace = dict[DecodeMode, tuple[int, float]]
"""Tokens and seconds of a round in each mode."""


def rounds(
    chooser: PaceChooser[DecodeMode], request: int, pace: Pace, num: int
) -> list[DecodeMode]:
    """Run a request and return the modes of its rounds."""
    chosen = []
    for _ in range(num):
        mode = chooser.choose(request)
        chosen.append(mode)
        chooser.observe(request, mode, *pace[mode])
    return chosen


def pace_of(fastest: DecodeMode) -> Pace:
    return {mode: (2 if mode is fastest else 1, 0.05) for mode in MODES}


def test_the_fastest_mode_is_found_whichever_it_is() -> None:
    for fastest in MODES:
        chosen = rounds(PaceChooser(MODES), 1, pace_of(fastest), 300)
        assert set(chosen[:40]) == set(MODES)  # each was tried
        assert set(chosen[40:]) == {fastest}


def test_requests_differ() -> None:
    chooser = PaceChooser(MODES)
    rounds(chooser, 1, pace_of(DecodeMode.PEARL), 200)
    own = rounds(chooser, 2, pace_of(DecodeMode.AUTOREGRESSIVE), 600)
    assert own[0] is DecodeMode.PEARL  # what all know
    assert own[-100:] == [DecodeMode.AUTOREGRESSIVE] * 100
    chooser.forget(2)


def test_little_time_is_lost_on_trying_again() -> None:
    chooser = PaceChooser(MODES)
    pace = pace_of(DecodeMode.PEARL)
    rounds(chooser, 1, pace, 50)
    chosen = rounds(chooser, 1, pace, 4000)
    seconds = sum(pace[mode][1] for mode in chosen)
    tokens = sum(pace[mode][0] for mode in chosen)
    assert tokens / seconds > 0.97 * 2 / 0.05
    assert set(chosen) == set(MODES)


def test_rounds_without_a_time_count_for_nothing() -> None:
    chooser = PaceChooser(MODES)
    for seconds in (0.0, float("nan"), float("inf"), -1.0):
        for mode in MODES:
            for _ in range(30):
                chooser.observe(1, mode, 5, seconds)
    assert chooser.choose(1) is MODES[0]  # as if nothing had been seen
    rounds(chooser, 1, pace_of(DecodeMode.PEARL), 100)
    assert chooser.choose(1) is DecodeMode.PEARL
