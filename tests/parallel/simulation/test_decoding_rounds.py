"""The state machine in virtual time against the formulas, and what only events can show."""

from dataclasses import replace

import pytest

from parallel.decoding.layer_width import StackTimes
from parallel.decoding.types import DecodeMode
from parallel.rounds.cost import expected_tokens, throughput
from parallel.simulation.decoding_rounds import simulate
from parallel.simulation.decoding_setup import (
    Busy,
    SimulatedDecoding,
    SimulatedDeployment,
    SimulatedRequest,
)
from parallel.simulation.network import Line
from parallel.simulation.virtual_acceptance import Chance

PEARL, SPECULATIVE, PLAIN = (
    DecodeMode.PEARL,
    DecodeMode.SPECULATIVE,
    DecodeMode.AUTOREGRESSIVE,
)


def unit(_: int) -> float:
    return 1.0


def setting(
    mode: DecodeMode, alpha: float, length: int | None, target_s: float
) -> SimulatedDeployment:
    return SimulatedDeployment(
        mode=mode,
        chance=Chance(alpha=alpha),
        draft_length=length,
        target_s=lambda _: target_s,
        step_s=unit,
    )


def run(chosen: SimulatedDeployment, num_tokens: int) -> SimulatedDecoding:
    return simulate(chosen, [SimulatedRequest(max_tokens=num_tokens)])


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

    found = run(replace(setting(mode, alpha, length, 0.0), target_s=target_s), 6000)
    came_out = alpha
    if mode is not PLAIN:  # some thousands of drafts are accepted a little more or less often
        came_out = found.accepted / (found.accepted + found.rejected)
        assert came_out == pytest.approx(alpha, abs=0.02)
    expected = throughput(
        mode, alpha=came_out, draft_length=length, target_s=target_s, draft_s=float
    )
    assert found.tokens_per_s == pytest.approx(expected, rel=0.015)
    tokens = expected_tokens(mode, alpha=came_out, draft_length=length)
    assert found.num_tokens / found.num_rounds == pytest.approx(tokens, rel=0.015)


def test_ends_of_the_range_of_alpha() -> None:
    found = run(setting(PEARL, 1.0, 4, 3.0), 1 + 99 * 4)
    assert found.num_tokens == 397
    assert found.rejected == 0
    assert found.elapsed_s == pytest.approx(400.0, abs=4)  # the drafter sets the pace
    found = run(setting(SPECULATIVE, 0.0, 4, 3.0), 10)
    assert (found.num_rounds, found.accepted) == (10, 0)
    assert found.elapsed_s == pytest.approx(10 * 7 - 4 - 3 - 2 - 1)  # the last drafts are shorter


def test_a_slow_link_costs_pearl_less_than_draft_then_verify() -> None:
    near = {mode: run(setting(mode, 0.9, 4, 5.0), 2000) for mode in (PEARL, SPECULATIVE)}
    far = {
        mode: run(replace(setting(mode, 0.9, 4, 5.0), link=Line(latency_s=1.0)), 2000)
        for mode in (PEARL, SPECULATIVE)
    }
    loss = {m: 1 - far[m].tokens_per_s / near[m].tokens_per_s for m in (PEARL, SPECULATIVE)}
    # Each round of draft-then-verify waits two latencies more, of 9 to 11 units.
    assert loss[SPECULATIVE] == pytest.approx(2 / 11, abs=0.01)
    assert 0 < loss[PEARL] < loss[SPECULATIVE]


def test_a_drafter_is_busy_while_the_target_is_only_in_pearl() -> None:
    for mode, hidden in ((PEARL, True), (SPECULATIVE, False)):
        found = simulate(
            setting(mode, 0.9, 4, 5.0), [SimulatedRequest(max_tokens=100)], keep_spans=30
        )
        target = [span for span in found.spans if span.peer is Busy.TARGET]
        drafter = [span for span in found.spans if span.peer is Busy.DRAFTER]
        together_s = sum(
            max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s))
            for a in target
            for b in drafter
        )
        assert (together_s > 0) is hidden
        assert (found.overlap > 0.5) is hidden


def test_a_batch_shares_its_forwards() -> None:
    alone = run(setting(PLAIN, 0.0, None, 5.0), 50)
    requests = [SimulatedRequest(stream=index, max_tokens=50) for index in range(8)]
    shared = simulate(replace(setting(PLAIN, 0.0, None, 5.0), max_batch=4), requests)
    assert shared.num_tokens == 400
    assert shared.tokens_per_s == pytest.approx(4 * alone.tokens_per_s)
    assert max(shared.ttft_s) == pytest.approx(51 * 5.0)  # the second four wait for the first


def test_a_request_that_comes_late_waits_for_no_other() -> None:
    requests = [SimulatedRequest(max_tokens=2), SimulatedRequest(max_tokens=2, arrives_s=100.0)]
    found = simulate(setting(PLAIN, 0.0, None, 5.0), requests)
    assert found.ttft_s == (5.0, 5.0)
    assert found.elapsed_s == 110.0


def test_the_controllers_find_the_best_length_mode_and_width() -> None:
    fixed = [run(setting(PEARL, 0.85, length, 6.0), 1500).tokens_per_s for length in range(2, 9)]
    chosen = run(setting(PEARL, 0.85, None, 6.0), 1500).tokens_per_s
    assert chosen > 0.93 * max(fixed)
    assert chosen > 1.1 * min(fixed)
    modes = [run(setting(mode, 0.85, 5, 6.0), 1500).tokens_per_s for mode in (PEARL, SPECULATIVE)]
    auto = run(setting(DecodeMode.AUTO, 0.85, 5, 6.0), 1500).tokens_per_s
    assert auto > 0.95 * max(modes)
    times = StackTimes(attention_s=0.2, gather_s=0.05, mlp_s=0.02, head_s=0.0)
    steps = tuple(times.step_s(width, num_layers=8, size=4) for width in (1, 2, 3, 4))
    layered = replace(
        setting(PEARL, 0.9, 4, 2.0),
        chance=Chance(alpha=0.9, drop=0.01),
        step_s=lambda width: steps[width - 1],
        predicted_step_s=steps,
    )
    by_width = [run(replace(layered, width=width), 1500).tokens_per_s for width in (1, 2, 3, 4)]
    assert run(layered, 1500).tokens_per_s > 0.95 * max(by_width) > 1.2 * by_width[0]
