"""The outcome cache in virtual time, against a chain of its states written out in float64."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from parallel.decoding.types import DecodeMode
from parallel.rounds.cost import expected_tokens
from parallel.rounds.outcome_budget import CHOICES
from parallel.simulation.decoding_rounds import simulate
from parallel.simulation.decoding_setup import (
    SimulatedDecoding,
    SimulatedDeployment,
    SimulatedRequest,
)
from parallel.simulation.network import Line
from parallel.simulation.virtual_acceptance import Chance

OUTCOMES, PEARL = DecodeMode.OUTCOMES, DecodeMode.PEARL
_RANKS = 8


def setting(
    alpha: float, target_s: float, *, beta: float = 0.65, length: int = 5
) -> SimulatedDeployment:
    return SimulatedDeployment(
        mode=OUTCOMES,
        chance=Chance(alpha=alpha, beta=beta),
        target_s=lambda _: target_s,
        step_s=lambda _: 1.0,
        draft_length=length,
    )


def run(chosen: SimulatedDeployment, num_tokens: int = 2000, batch: int = 1) -> SimulatedDecoding:
    requests = [SimulatedRequest(stream=n, max_tokens=num_tokens) for n in range(batch)]
    return simulate(replace(chosen, max_batch=batch), requests)


def chain_tokens(
    alpha: float, beta: float, length: int, num_outcomes: int, num_ranks: int = _RANKS
) -> float:
    """Return the tokens of a round: every verdict of both states, and which ones are prepared."""
    tokens, hits = np.zeros(2), np.zeros(2)
    for state, num_flying in enumerate((0, length - 1)):
        listed = []
        for kept, rank in product(range(num_flying + 1), range(num_ranks)):
            probability = alpha**kept * (1 - alpha) * beta * (1 - beta) ** rank
            listed.append((probability, kept, rank))
        prepared = sorted(listed, key=lambda each: (-each[0], each[1], each[2]))
        hits[state] = alpha ** (num_flying + 1)  # the drafter's own continuation
        hits[state] += sum(each[0] for each in prepared[: num_outcomes - 1])
        tokens[state] = sum(alpha**kept for kept in range(num_flying + 1))
    share = 0.5
    for _ in range(1000):
        share = (1 - share) * hits[0] + share * hits[1]
    return float((1 - share) * tokens[0] + share * tokens[1])


@pytest.mark.parametrize(
    ("alpha", "beta", "length", "bar"),
    [(0.8, 0.65, 5, 1.3), (0.8, 0.3, 5, 1.1), (0.9, 0.65, 10, 1.3)],
)
def test_rounds_yield_what_the_chain_says(
    alpha: float, beta: float, length: int, bar: float
) -> None:
    found = run(setting(alpha, float(length), beta=beta, length=length), 5000)
    came_out = found.accepted / (found.accepted + found.rejected)
    assert came_out == pytest.approx(alpha, abs=0.03)
    tokens = chain_tokens(came_out, beta, length, max(CHOICES))
    assert found.num_tokens / found.num_rounds == pytest.approx(tokens, rel=0.02)
    assert found.tokens_per_s == pytest.approx(tokens / length, rel=0.02)  # no round waits
    pearl = run(replace(setting(alpha, float(length), length=length), mode=PEARL))
    assert found.tokens_per_s > bar * pearl.tokens_per_s


def test_without_guesses_it_yields_what_pearl_yields() -> None:
    found = run(setting(0.8, 5.0, beta=0.0))
    came_out = found.accepted / (found.accepted + found.rejected)
    pearl = expected_tokens(PEARL, alpha=came_out, draft_length=5)
    assert found.num_tokens / found.num_rounds == pytest.approx(pearl, rel=0.02)


def test_a_draft_that_is_too_long_for_the_window_costs_nothing() -> None:
    """Drafts are cut at the verdict: no length is slower than the one that fits."""
    found = [run(setting(0.8, 4.5, length=length)).tokens_per_s for length in (5, 8, 12)]
    assert min(found) > 0.97 * max(found)
    pearl = [
        run(replace(setting(0.8, 4.5, length=length), mode=PEARL)).tokens_per_s
        for length in (5, 12)
    ]
    assert pearl[1] < 0.6 * pearl[0]


def test_the_last_token_of_a_draft_is_waited_for_where_it_is_nearly_there() -> None:
    """A window that messages and host exceed by little: a token lost each round costs more."""
    ideal = run(setting(0.8, 5.0))
    real = replace(setting(0.8, 5.0), link=Line(latency_s=0.06), host_s=0.06)
    assert run(real).tokens_per_s > 0.96 * ideal.tokens_per_s


@pytest.mark.parametrize("length", range(4, 13))
def test_every_draft_length_is_as_good_as_the_best_where_messages_take_time(length: int) -> None:
    near = replace(setting(0.8, 4.5), link=Line(latency_s=0.03), host_s=0.03)
    best = run(replace(near, draft_length=4), 1000)
    found = run(replace(near, draft_length=length), 1000)
    assert found.tokens_per_s > 0.97 * best.tokens_per_s


def test_messages_cost_nothing_while_the_window_holds_them() -> None:
    near = replace(setting(0.8, 5.0), step_s=lambda _: 0.8)
    speeds = [
        run(replace(near, link=Line(latency_s=latency_s))).tokens_per_s for latency_s in (0.0, 0.4)
    ]
    assert speeds[1] > 0.95 * speeds[0]


@pytest.mark.parametrize("branch_s", [0.05, 0.2])
def test_as_many_outcomes_are_drafted_for_as_pay(
    branch_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = replace(setting(0.8, 5.0), branch_s=branch_s)
    found, fixed = run(chosen, 800).tokens_per_s, []
    for num in CHOICES[::2]:
        monkeypatch.setattr("parallel.rounds.outcome_budget.CHOICES", (num,))
        fixed.append(run(chosen, 800).tokens_per_s)
    assert found > 0.95 * max(fixed) > 1.02 * min(fixed)


def test_drafters_that_share_a_request_s_outcomes_miss_less_often() -> None:
    one = setting(0.8, 10.0, beta=0.3, length=10)
    three = run(replace(one, num_drafters=3), 3000)
    came_out = three.accepted / (three.accepted + three.rejected)
    tokens = chain_tokens(came_out, 0.3, 10, 3 * max(CHOICES), num_ranks=16)
    assert three.num_tokens / three.num_rounds == pytest.approx(tokens, rel=0.02)
    assert three.tokens_per_s > 1.15 * run(one, 3000).tokens_per_s


def test_more_drafters_slow_no_step_down_and_are_shared_by_a_batch() -> None:
    slow = replace(setting(0.8, 5.0), branch_s=0.05)
    alone, three = run(slow, 1000), run(replace(slow, num_drafters=3), 1000)
    assert three.tokens_per_s > alone.tokens_per_s
    batch, shared = run(slow, 500, batch=4), run(replace(slow, num_drafters=4), 500, batch=4)
    assert shared.tokens_per_s > 1.1 * batch.tokens_per_s


def test_a_sequence_that_misses_delays_no_other() -> None:
    alone, together = run(setting(0.8, 5.0)), run(setting(0.8, 5.0), 500, batch=8)
    paces = [500 / total_s for total_s in together.total_s]
    assert sum(paces) / 8 > 0.95 * alone.tokens_per_s


def test_auto_finds_it_where_it_is_the_fastest() -> None:
    fast = run(setting(0.8, 5.0), 1500)
    auto = run(replace(setting(0.8, 5.0), mode=DecodeMode.AUTO), 1500)
    assert auto.tokens_per_s > 0.95 * fast.tokens_per_s
    slow = replace(setting(0.8, 5.0, beta=0.0), branch_s=1.0, mode=DecodeMode.AUTO)
    pearl = run(replace(slow, mode=PEARL), 1500)
    assert run(slow, 1500).tokens_per_s > 0.9 * pearl.tokens_per_s
