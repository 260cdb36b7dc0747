"""Formulas of a round against known numbers and against the state machine in virtual time."""

import pytest

from parallel.decoding.cost import expected_tokens, post_verify_share, round_seconds, throughput
from parallel.decoding.simulate import simulate
from parallel.decoding.types import DecodeMode

PEARL, SPECULATIVE, PLAIN = (
    DecodeMode.PEARL,
    DecodeMode.SPECULATIVE,
    DecodeMode.AUTOREGRESSIVE,
)


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


@pytest.mark.parametrize(
    ("mode", "alpha", "length", "slope"),
    [
        (PEARL, 0.8, 5, 0.0),
        (PEARL, 0.95, 8, 0.0),
        (PEARL, 0.6, 6, 0.4),
        (SPECULATIVE, 0.9, 5, 0.0),
        (SPECULATIVE, 0.7, 3, 0.4),
        (PLAIN, 0.7, 3, 0.4),
    ],
)
def test_the_state_machine_in_virtual_time_agrees_with_the_formulas(
    mode: DecodeMode, alpha: float, length: int, slope: float
) -> None:
    def target_s(positions: int) -> float:
        return 5 + slope * positions

    expected = throughput(mode, alpha=alpha, draft_length=length, target_s=target_s, draft_s=unit)
    run = simulate(
        mode,
        alpha=alpha,
        draft_length=length,
        target_s=target_s,
        draft_s=unit,
        num_rounds=2000 if mode is PLAIN else 30_000,
    )
    assert run.tokens_per_s == pytest.approx(expected, rel=0.01)
    tokens = expected_tokens(mode, alpha=alpha, draft_length=length)
    assert run.num_tokens / run.num_rounds == pytest.approx(tokens, rel=0.01)


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


def test_simulated_ends() -> None:
    run = simulate(
        PEARL, alpha=1.0, draft_length=4, target_s=lambda _: 3.0, draft_s=unit, num_rounds=100
    )
    assert (run.num_tokens, run.elapsed_s) == (1 + 99 * 4, 400.0)
    run = simulate(
        SPECULATIVE, alpha=0.0, draft_length=4, target_s=lambda _: 3.0, draft_s=unit, num_rounds=10
    )
    assert (run.num_tokens, run.elapsed_s) == (10, 70.0)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        expected_tokens(PEARL, alpha=1.1, draft_length=1)
    with pytest.raises(ValueError, match="draft_length"):
        round_seconds(PEARL, alpha=0.5, draft_length=-1, target_s=unit, draft_s=unit)
