"""Mode auto in virtual time: near the best fixed mode everywhere, and soon again after a step."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from parallel.decoding.types import DecodeMode
from parallel.simulation.decoding_rounds import simulate
from parallel.simulation.decoding_setup import SimulatedDeployment, SimulatedRequest
from parallel.simulation.network import Line
from parallel.simulation.virtual_acceptance import Chance

FIXED = [mode for mode in DecodeMode if mode is not DecodeMode.AUTO]


def setting(
    alpha: float, ratio: float, *, beta: float = 0.65, branch_s: float = 0.0
) -> SimulatedDeployment:
    """Return a deployment whose draft step takes 1 s, and its forward `ratio` times as long."""
    return SimulatedDeployment(
        mode=DecodeMode.AUTO,
        chance=Chance(alpha=alpha, beta=beta),
        target_s=lambda _: ratio,
        step_s=lambda _: 1.0,
        branch_s=branch_s,
        link=Line(latency_s=0.01),
        host_s=0.01,
        max_draft_length=12,
    )


def seconds(chosen: SimulatedDeployment, num_tokens: int) -> float:
    return simulate(chosen, [SimulatedRequest(max_tokens=num_tokens)]).elapsed_s


def share_of_best(chosen: SimulatedDeployment, num_tokens: int) -> float:
    """Return the speed of auto against that of the fastest fixed mode."""
    best_s = min(seconds(replace(chosen, mode=mode), num_tokens) for mode in FIXED)
    return best_s / seconds(chosen, num_tokens)


@pytest.mark.parametrize("ratio", [3.0, 10.0])
@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 0.9])
def test_auto_is_as_fast_as_the_best_mode(alpha: float, ratio: float) -> None:
    assert share_of_best(setting(alpha, ratio), 700) >= 0.97


@pytest.mark.parametrize(
    ("alpha", "ratio", "branch_s"),
    [(0.8, 5.0, 1.0), (0.9, 8.0, 1.0), (0.1, 1.0, 1.0), (0.5, 2.0, 0.5)],
)
def test_auto_is_as_fast_where_branches_cost_much_and_guesses_are_wrong(
    alpha: float, ratio: float, branch_s: float
) -> None:
    chosen = setting(alpha, ratio, beta=0.0, branch_s=branch_s)
    assert share_of_best(chosen, 1500) >= 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepping(Chance):
    """Draft tokens whose acceptance changes after 400 tokens."""

    later: float

    def is_right(self, stream: int, position: int, width: int = 1) -> bool:
        alpha = self.alpha if position < 400 else self.later
        return Chance(alpha=alpha, beta=self.beta).is_right(stream, position, width)


@pytest.mark.parametrize(("alpha", "later"), [(0.9, 0.05), (0.05, 0.9)])
def test_auto_settles_again_soon_after_a_step_in_acceptance(alpha: float, later: float) -> None:
    chance = Stepping(alpha=alpha, later=later, beta=0.0)
    chosen = replace(setting(alpha, 3.0, beta=0.0, branch_s=0.5), chance=chance)
    assert share_of_best_after(chosen, 400, mean_tokens=3 if later > 0.5 else 1) >= 0.97


def test_auto_settles_again_soon_after_a_step_in_the_drafter_s_cost() -> None:
    def stepping() -> Callable[[int], float]:
        num_steps = 0

        def step_s(_: int) -> float:
            nonlocal num_steps
            num_steps += 1
            return 1.0 if num_steps < 600 else 12.0

        return step_s

    def elapsed_s(mode: DecodeMode, num_tokens: int) -> float:
        chosen = replace(setting(0.8, 5.0, beta=0.0, branch_s=1.0), mode=mode, step_s=stepping())
        return seconds(chosen, num_tokens)

    plain_s = 5.02  # of a token without drafts
    assert elapsed_s(DecodeMode.AUTO, 500) < 0.7 * 500 * plain_s
    late_s = elapsed_s(DecodeMode.AUTO, 2500) - elapsed_s(DecodeMode.AUTO, 1500)
    assert late_s < 1030 * plain_s


def share_of_best_after(chosen: SimulatedDeployment, step: int, *, mean_tokens: int) -> float:
    """Return the speed of auto against the best mode's, from 50 rounds after a step on."""
    first, last = step + 50 * mean_tokens, step + 50 * mean_tokens + 600

    def taken_s(mode: DecodeMode) -> float:
        one = replace(chosen, mode=mode)
        return seconds(one, last) - seconds(one, first)

    return min(taken_s(mode) for mode in FIXED) / taken_s(DecodeMode.AUTO)
