"""The dispatcher: what it starts and drops, which workers it replaces, when it gives up."""

import pytest

from runtime.clock import ManualClock
from runtime.errors import PeerLost
from runtime.training.dispatcher import Dispatcher
from runtime.training.worker_pool import Arrived, WorkerLost


class ScriptedPool:
    """Workers whose events are scripted; each wait moves the clock to the next one."""

    def __init__(self, size: int, events: list[tuple[float, Arrived[str] | WorkerLost]]) -> None:
        self.size = size
        self.clock = ManualClock()
        self.started: list[tuple[int, str]] = []
        self.replaced: list[int] = []
        self.unready: set[int] = set()
        self._events = events

    def is_ready(self, worker: int) -> bool:
        return worker not in self.unready

    def start(self, worker: int, work: str) -> None:
        self.started.append((worker, work))

    def wait(self, timeout_s: float) -> list[Arrived[str] | WorkerLost]:
        if self._events and self._events[0][0] <= self.clock.now_s() + timeout_s:
            at_s, event = self._events.pop(0)
            self.clock.advance(max(0.0, at_s - self.clock.now_s()))
            return [event]
        self.clock.advance(timeout_s)
        return []

    def replace(self, worker: int) -> None:
        self.replaced.append(worker)


class Queue:
    """Pieces of work by name, each wanted once."""

    def __init__(self, *names: str) -> None:
        self.results: list[str] = []
        self.lost_workers: list[int] = []
        self.longest_idle_s = 0.0
        self._todo = list(names)
        self._num = len(names)

    def wait_s(self, now_s: float, idle_s: float) -> float | None:  # noqa: ARG002
        self.longest_idle_s = max(self.longest_idle_s, idle_s)
        return None if len(self.results) == self._num else 100.0

    def next(self, worker: int, now_s: float) -> str | None:  # noqa: ARG002
        return self._todo.pop(0) if self._todo else None

    def take(self, worker: int, result: str, now_s: float) -> None:
        self.results.append(f"{result} by {worker} at {now_s:g}")

    def lost(self, worker: int, now_s: float) -> None:  # noqa: ARG002
        self.lost_workers.append(worker)
        self._todo.append("again")


def test_idle_workers_start_in_order_and_again_as_they_answer() -> None:
    pool = ScriptedPool(2, [(1.0, Arrived(1, "b")), (2.0, Arrived(0, "a")), (3.0, Arrived(1, "c"))])
    queue = Queue("a", "b", "c")
    num_started = Dispatcher(pool, pool.clock, lost_after_s=60.0).run(queue)
    assert num_started == 3
    assert pool.started == [(0, "a"), (1, "b"), (1, "c")]
    assert queue.results == ["b by 1 at 1", "a by 0 at 2", "c by 1 at 3"]


def test_a_silent_worker_is_replaced_and_its_work_is_started_again() -> None:
    pool = ScriptedPool(1, [(11.0, Arrived(0, "a"))])
    queue = Queue("a")
    dispatcher = Dispatcher(pool, pool.clock, lost_after_s=5.0, max_losses=2)
    dispatcher.run(queue)
    assert pool.replaced == [0]
    assert queue.lost_workers == [0]
    assert pool.started == [(0, "a"), (0, "again")]
    assert dispatcher.num_losses == 1


def test_more_losses_than_allowed_end_the_run() -> None:
    pool = ScriptedPool(1, [(1.0, WorkerLost(0, "killed")), (2.0, WorkerLost(0, "killed again"))])
    dispatcher = Dispatcher(pool, pool.clock, lost_after_s=60.0, max_losses=1)
    with pytest.raises(PeerLost, match=r"\(killed again\), loss number 2 .* allows 1"):
        dispatcher.run(Queue("a"))


def test_results_of_an_earlier_plan_are_dropped() -> None:
    pool = ScriptedPool(
        2, [(1.0, Arrived(0, "old")), (2.0, Arrived(1, "a")), (3.0, Arrived(0, "b"))]
    )
    queue = Queue("a", "b")
    dispatcher = Dispatcher(pool, pool.clock, lost_after_s=60.0, busy_since={0: -5.0})
    dispatcher.run(queue)
    assert queue.results == ["a by 1 at 2", "b by 0 at 3"]
    assert pool.started == [(1, "a"), (0, "b")]


def test_workers_stay_busy_from_one_source_to_the_next() -> None:
    pool = ScriptedPool(
        2, [(1.0, Arrived(0, "a")), (2.0, Arrived(1, "slow")), (3.0, Arrived(0, "c"))]
    )
    dispatcher = Dispatcher(pool, pool.clock, lost_after_s=60.0)

    class First(Queue):
        def wait_s(self, now_s: float, idle_s: float) -> float | None:  # noqa: ARG002
            return None if self.results else 1.0

    dispatcher.run(First("a", "slow"))
    assert dispatcher.busy_since == {1: 0.0}
    second = Queue("c", "d")
    dispatcher.run(second)
    assert pool.started[2] == (0, "c")
    assert second.results == ["slow by 1 at 2", "c by 0 at 3"]


def test_a_source_is_told_how_long_no_worker_was_busy() -> None:
    pool = ScriptedPool(1, [])
    pool.unready = {0}

    class Impatient(Queue):
        def wait_s(self, now_s: float, idle_s: float) -> float | None:
            if idle_s > 30:
                pool.unready.clear()
                return None
            return super().wait_s(now_s, idle_s)

    queue = Impatient("a")
    Dispatcher(pool, pool.clock, lost_after_s=60.0).run(queue)
    assert 29 <= queue.longest_idle_s <= 30
    assert not pool.started
