"""Formulas of a round against known numbers; `test_simulate.py` compares the state machine."""

import pytest

from parallel.decoding.modes.pearl import post_verify_share
from parallel.decoding.types import DecodeMode
from parallel.rounds.cost import expected_tokens, round_seconds, throughput

PEARL, SPECULATIVE = DecodeMode.PEARL, DecodeMode.SPECULATIVE


def unit(steps: int) -> float:
    return float(steps)


@pytest.mark.parametrize(
    ("alpha", "length", "pearl", "speculative"),
    [(0.8, 5, 2.28, 1.84), (0.9, 5, 3.13, 2.34), (0.95, 8, 5.23, 3.70)],
)
def test_speedups_are_those_of_the_reference(
    alpha: float, length: int, pearl: float, speculative: float
) -> None:
    for mode, expected in ((PEARL, pearl), (SPECULATIVE, speculative)):
        speed = throughput(
            mode, alpha=alpha, draft_length=length, target_s=lambda _: float(length), draft_s=unit
        )
        assert speed * length == pytest.approx(expected, abs=0.005)


def test_ends_of_the_range_of_alpha() -> None:
    assert expected_tokens(PEARL, alpha=1.0, draft_length=4) == 4
    assert expected_tokens(SPECULATIVE, alpha=1.0, draft_length=4) == 5
    assert post_verify_share(1.0, 4) == 1
    for mode in DecodeMode:
        assert expected_tokens(mode, alpha=0.0, draft_length=4) == 1
        assert expected_tokens(mode, alpha=0.9, draft_length=0) == 1
    assert expected_tokens(PEARL, alpha=0.9, draft_length=1) == 1


@pytest.mark.parametrize(
    ("alpha", "gamma", "tokens"), [(0.7, 1, 1.7), (0.7, 2, 2.19), (0.7, 4, 2.7731)]
)
def test_tokens_of_draft_then_verify(alpha: float, gamma: int, tokens: float) -> None:
    got = expected_tokens(SPECULATIVE, alpha=alpha, draft_length=gamma)
    assert got == pytest.approx(tokens, abs=5e-5)


def test_impossible_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="alpha"):
        expected_tokens(PEARL, alpha=1.1, draft_length=1)
    with pytest.raises(ValueError, match="draft_length"):
        round_seconds(PEARL, alpha=0.5, draft_length=-1, target_s=unit, draft_s=unit)
