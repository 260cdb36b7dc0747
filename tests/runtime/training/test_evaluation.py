"""Evaluation on workers that are slow, hang or die: every batch once, in order."""

import random

import pytest

from runtime.clock import ManualClock
from runtime.errors import PeerLost
from runtime.training.evaluation import evaluate
from runtime.training.worker_pool import Arrived, WorkerLost


class Evaluators:
    """Workers that square a batch after a drawn time, on a clock that only moves in `wait`."""

    def __init__(self, *, dies: float = 0.0, hangs: float = 0.0, seed: int = 0) -> None:
        self.size = 3
        self.clock = ManualClock()
        self.ready = True
        self.num_lost = 0
        self._rng = random.Random(seed)
        self._dies, self._hangs = dies, hangs
        self._running: dict[int, tuple[float, Arrived[int] | WorkerLost]] = {}

    def is_ready(self, worker: int) -> bool:
        return self.ready and worker < self.size

    def start(self, worker: int, work: int) -> None:
        assert worker not in self._running
        took_s = float("inf") if self._rng.random() < self._hangs else self._rng.uniform(1, 9)
        event: Arrived[int] | WorkerLost = Arrived(worker, work * work)
        if self._rng.random() < self._dies:
            event = WorkerLost(worker, "killed")
        self._running[worker] = (self.clock.now_s() + took_s, event)

    def wait(self, timeout_s: float) -> list[Arrived[int] | WorkerLost]:
        self.clock.advance(timeout_s)
        done = [w for w, (at_s, _) in self._running.items() if at_s <= self.clock.now_s()]
        events = [self._running.pop(worker)[1] for worker in done]
        self.num_lost += sum(isinstance(event, WorkerLost) for event in events)
        return events

    def replace(self, worker: int) -> None:
        self.num_lost += 1
        del self._running[worker]


@pytest.mark.parametrize("seed", range(5))
def test_results_come_in_the_order_of_the_batches_whatever_happens(seed: int) -> None:
    pool = Evaluators(dies=0.15, hangs=0.1, seed=seed)
    found = evaluate(pool, range(20), pool.clock, lost_after_s=20.0)
    assert found == [number * number for number in range(20)]
    assert pool.num_lost > 0


def test_a_batch_that_loses_every_worker_fails_the_evaluation() -> None:
    pool = Evaluators(dies=1.0)
    with pytest.raises(PeerLost, match="5 workers were lost at one batch"):
        evaluate(pool, [1], pool.clock, lost_after_s=20.0)
    assert pool.num_lost == 5


def test_without_any_ready_worker_the_evaluation_fails_after_a_while() -> None:
    pool = Evaluators()
    pool.ready = False
    with pytest.raises(PeerLost, match="no worker was ready to evaluate for 300 s"):
        evaluate(pool, [1], pool.clock, lost_after_s=20.0)
    assert 300 < pool.clock.now_s() < 310


def test_nothing_to_evaluate_needs_no_worker() -> None:
    pool = Evaluators()
    pool.ready = False
    assert evaluate(pool, list[int](), pool.clock, lost_after_s=20.0) == []
