"""The simulator: known times by hand, the order of the published result, and where it ends."""

import math

import numpy as np
import pytest

from parallel.training.gradient_coding.codes import replication_code
from parallel.training.gradient_coding.names import round_scheme
from parallel.training.gradient_coding.patterns import GilbertElliott
from parallel.training.gradient_coding.queue_schedules import PullQueue
from parallel.training.gradient_coding.queue_simulation import simulate_queue
from parallel.training.gradient_coding.scheme_simulation import cut_round, simulate_rounds
from parallel.training.gradient_coding.schemes import CodedScheme, DropSlowest, Scheme
from parallel.training.gradient_coding.sequential import Multiplexed, SelectiveRepeat
from parallel.training.gradient_coding.straggler_patience import StragglerPatience
from parallel.training.gradient_coding.worker_times import SlowStates, Trace


def coded(n: int, s: int) -> CodedScheme:
    return CodedScheme(replication_code(n, s), f"gc-{s}")


def test_rounds_by_hand() -> None:
    times = Trace(np.array([[1.0, 1.2, 1.1, 9.0], [1.0, 1.0, 4.0, 5.0]]), slope=0.0)
    uncoded = simulate_rounds(coded(4, 0), times, patience=1.0)
    assert (uncoded.seconds, uncoded.num_waits) == (14.0, 2)
    pairs = simulate_rounds(coded(4, 1), times, patience=1.0)
    # Round 0 ends at its deadline; in round 1 both of a pair are late, and the first is waited for.
    assert (pairs.seconds, pairs.num_waits, pairs.work) == (2.0 + 4.0, 1, 2.0)
    dropped = simulate_rounds(DropSlowest(4, 2), times, patience=1.0)
    assert (dropped.seconds, dropped.is_exact) == (2.0 + 2.0, False)


@pytest.mark.parametrize("name", ["gc-1", "class-2", "drop-1", "sr-sgc-2-3-2", "m-sgc-1-3-2"])
def test_the_shortest_wait_is_no_longer_than_waiting_for_all(name: str) -> None:
    scheme = round_scheme(name, 6)
    assert scheme is not None
    draw = np.random.default_rng(0)
    history = np.zeros((0, 6), dtype=np.bool_)
    all_workers, num_shorter = np.ones(6, dtype=np.bool_), 0
    for _ in range(300):
        taken = draw.uniform(1.0, 1.2, 6) * np.where(draw.random(6) < 0.2, draw.uniform(2, 9, 6), 1)
        late, seconds, waited = cut_round(
            scheme, history, taken, all_workers, StragglerPatience(0.5)
        )
        history = np.vstack([history, late])
        assert scheme.conforms(history)
        assert seconds <= taken.max() + 1e-9
        assert (taken[~late] <= seconds + 1e-9).all()
        num_shorter += waited and seconds < taken.max()
        if waited:  # no wait was in vain: without the last one it would not do
            last = int(np.where(late, 0, taken).argmax())
            without = late.copy()
            without[last] = True
            assert not scheme.conforms(np.vstack([history[:-1], without]))
    assert num_shorter > 0


def test_one_fast_worker_sets_no_deadline_for_the_others() -> None:
    patience = StragglerPatience(1.0)
    assert patience.deadline_s([], 8) == math.inf
    assert patience.deadline_s([3.0], 8) == 6.0
    assert patience.deadline_s([3.0, 2.0], 24) == math.inf  # of 24 the third counts
    assert patience.deadline_s([3.0, 2.0, 5.0], 24) == 10.0
    patience.end_round([3.0] * 8, 8)
    assert patience.deadline_s([0.1], 8) == 3.0
    assert patience.deadline_s([2.0], 8) == 4.0
    for _ in range(40):  # and yet it follows when all have become faster
        patience.end_round([0.1] * 8, 8)
    assert patience.deadline_s([0.1], 8) == pytest.approx(0.2)


def test_redundancy_costs_its_slope() -> None:
    times = Trace(np.ones((3, 4)), slope=2.0)
    assert simulate_rounds(coded(4, 1), times, patience=1.0).seconds == pytest.approx(3 * 1.5)


class Computing:
    """Times that are computing alone: what a whole share takes, [rounds][workers]."""

    def __init__(self, share_s: np.ndarray) -> None:
        self._share_s = share_s
        self.num_rounds, self.num_workers = share_s.shape

    def seconds(self, number: int, loads: np.ndarray) -> np.ndarray:
        return np.asarray(self._share_s[number] * loads * self.num_workers)


def test_a_queue_by_hand() -> None:
    times = Computing(np.array([[1.0, 1.0, 9.0, 1.0]]))
    run = simulate_queue(
        "pull-1", lambda chunk_times: PullQueue(4, chunk_times), times, num_workers=4, chunks_each=1
    )
    # Three are done after 1; at 1.25 the slow one is late, and one of them does its chunk.
    assert run.seconds == pytest.approx(2.25)
    assert run.work == 1.25
    assert run.stragglers == 1.0


def test_results_are_received_one_after_the_other() -> None:
    times = Computing(np.ones((2, 4)))
    run = simulate_rounds(coded(4, 0), times, patience=1.0, turn_s=0.1)
    assert run.seconds == pytest.approx(2 * 1.4)
    run = simulate_queue(
        "pull-1",
        lambda chunk_times: PullQueue(4, chunk_times),
        times,
        num_workers=4,
        chunks_each=1,
        turn_s=0.1,
    )
    assert run.seconds == pytest.approx(2 * 1.4)
    assert run.work == 1.0


def serverless(factor: float = 1.55) -> SlowStates:
    chain = GilbertElliott(p_slow=0.048, p_fast=0.9)
    return SlowStates(
        chain, num_rounds=120, num_workers=256, factor=factor, tail=0.2, overhead=1.0,
        work=0.0159, jitter=0.3,
    )  # fmt: skip


def seconds_a_job(scheme: Scheme, times: SlowStates, patience: float) -> float:
    run = simulate_rounds(scheme, times, patience=patience)
    return run.seconds / run.num_jobs


def test_the_published_order_holds_where_latency_takes_the_time() -> None:
    """Krishnan et al., table 1: M-SGC 16 % ahead of GC, SR-SGC between, uncoded last."""
    times = serverless()
    multiplexed = seconds_a_job(Multiplexed(256, 1, 2, 27), times, 1.0)
    repeat = seconds_a_job(SelectiveRepeat(256, 2, 3, 23), times, 1.0)
    plain = seconds_a_job(coded(256, 15), times, 1.0)
    uncoded = seconds_a_job(coded(256, 0), times, 1.0)
    assert multiplexed < repeat < plain < uncoded
    assert 0.10 < 1 - multiplexed / plain < 0.22


def test_and_not_where_stragglers_are_much_slower() -> None:
    times = serverless(factor=2.5)
    multiplexed = seconds_a_job(Multiplexed(256, 1, 2, 27), times, 1.0)
    assert multiplexed > seconds_a_job(coded(256, 15), times, 1.0)


def test_and_not_where_computing_takes_the_time() -> None:
    chain = GilbertElliott(p_slow=0.05, p_fast=0.9)
    times = SlowStates(chain, num_rounds=200, num_workers=16, factor=3.0)
    multiplexed = seconds_a_job(Multiplexed(16, 1, 3, 2), times, 0.5)
    queue = simulate_queue(
        "pull-4",
        lambda chunk_times: PullQueue(64, chunk_times),
        times,
        num_workers=16,
        chunks_each=4,
    )
    assert queue.seconds / queue.num_jobs < 1.4 < multiplexed
    assert seconds_a_job(coded(16, 1), times, 0.5) > multiplexed


def test_a_chunk_that_is_not_finished_holds_its_worker_up_in_the_next_step() -> None:
    times = Computing(np.array([[1.0, 3.0], [1.0, 1.0]]))
    found = {
        carries_over: simulate_queue(
            "pull-1",
            lambda chunk_times: PullQueue(2, chunk_times),
            times,
            num_workers=2,
            chunks_each=1,
            carries_over=carries_over,
        ).seconds
        for carries_over in (False, True)
    }
    # The first step ends with a copy at 2.25, when the slow worker has 0.75 s to go.
    assert found == {False: 2.25 + 1.0, True: 2.25 + 1.75}
