"""Handing chunks out one at a time, in virtual time: nothing twice, nothing lost."""

import heapq
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel.training.gradient_coding.queue_schedules import (
    ChunkTimes,
    PullQueue,
    QueueSchedule,
    StreamingGroups,
)

NO_WORKER = -1


def play(
    schedule: QueueSchedule, speeds: list[float], dies_at: dict[int, float] | None = None
) -> tuple[list[int], float]:
    """Run workers with these seconds a chunk; return the chunks that counted, and the time."""
    dies_at = dies_at or {}
    events: list[tuple[float, int, int]] = []
    counted: list[int] = []
    idle = set(range(len(speeds)))
    dead: set[int] = set()
    now = 0.0

    def start() -> None:
        for worker in sorted(idle - dead):
            chunk = schedule.next(worker, now)
            if chunk is not None and not math.isinf(speeds[worker]):
                heapq.heappush(events, (now + speeds[worker], worker, chunk))
            if chunk is not None:
                idle.discard(worker)
        ask_s = schedule.next_copy_s(now)
        if idle - dead and not math.isinf(ask_s):
            heapq.heappush(events, (ask_s, NO_WORKER, -1))

    for worker, at in dies_at.items():
        heapq.heappush(events, (at, worker, -1))
    start()
    while not schedule.is_complete:
        now, worker, chunk = heapq.heappop(events)
        if worker in dead:
            continue
        if worker == NO_WORKER:
            pass
        elif chunk < 0:
            dead.add(worker)
            schedule.lost(worker)
        else:
            idle.add(worker)
            if schedule.done(chunk, worker, now):
                counted.append(chunk)
        if not schedule.is_complete:
            start()
    return counted, now


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_a_queue_counts_every_chunk_once_whichever_worker_dies(
    rng: random.Random, num_workers: int, num_chunks: int
) -> None:
    speeds = [rng.choice([1.0, 1.1, 3.0, 10.0]) for _ in range(num_workers)]
    victims = rng.sample(range(num_workers), rng.randrange(num_workers))
    counted, _ = play(
        PullQueue(num_chunks, ChunkTimes()),
        speeds,
        {victim: rng.uniform(0, 8) for victim in victims},
    )
    assert sorted(counted) == list(range(num_chunks))


def test_a_worker_that_hangs_costs_a_queue_two_chunks_of_time() -> None:
    for num_workers in (2, 4, 8):
        speeds = [1.0] * (num_workers - 1) + [math.inf]
        counted, seconds = play(PullQueue(4 * num_workers, ChunkTimes()), speeds)
        assert sorted(counted) == list(range(4 * num_workers))
        ideal = math.ceil(4 * num_workers / (num_workers - 1))
        assert seconds <= ideal + 2


@pytest.mark.parametrize("size", [2, 3, 4])
def test_streaming_groups_tolerate_all_but_one_of_each_group(size: int) -> None:
    num_workers = 3 * size
    counted, seconds = play(StreamingGroups(num_workers, size, ChunkTimes()), [1.0] * num_workers)
    assert sorted(counted) == list(range(num_workers))
    assert seconds == 1.0  # without stragglers each does one chunk
    speeds = [1.0 if worker % size == 1 else math.inf for worker in range(num_workers)]
    counted, seconds = play(StreamingGroups(num_workers, size, ChunkTimes()), speeds)
    assert sorted(counted) == list(range(num_workers))
    assert seconds == size + 0.25  # and waits until the others are late


def test_groups_that_do_not_come_out_even_are_rejected() -> None:
    with pytest.raises(
        ValueError, match="groups of 3 do not divide 8 workers evenly: choose one of 1"
    ):
        StreamingGroups(8, 3, ChunkTimes())


def test_a_chunk_that_comes_again_does_not_count() -> None:
    queue = PullQueue(1, ChunkTimes())
    assert queue.next(0, 0.0) == queue.next(1, 0.0) == 0
    assert queue.next(0, 0.0) is None
    assert queue.done(0, 1, 1.0)
    assert not queue.done(0, 0, 1.0)
    assert queue.is_complete


@pytest.mark.parametrize(
    "make", [lambda times: PullQueue(2, times), lambda times: StreamingGroups(2, 2, times)]
)
def test_only_what_is_late_is_copied(make: Callable[[ChunkTimes], QueueSchedule]) -> None:
    times = ChunkTimes()
    for seconds in (1.0, 2.0, 9.0):
        times.add(seconds)
    schedule = make(times)
    assert [schedule.next(worker, 10.0) for worker in (0, 1)] == [0, 1]
    assert schedule.done(0, 0, 12.0)
    assert schedule.next(0, 12.0) is None
    assert schedule.next_copy_s(12.0) == 12.5  # 1.25 times the median of 2
    assert schedule.next(0, 12.5) == 1
    assert schedule.next(0, 20.0) is None


def test_one_worker_at_a_time_copies_a_late_chunk() -> None:
    times = ChunkTimes()
    times.add(2.0)
    queue = PullQueue(1, times)
    assert queue.next(0, 0.0) == 0
    assert queue.next(1, 2.5) == 0
    assert queue.next(2, 2.5) is None
    assert queue.next_copy_s(2.5) == 5.0  # the copy is late too then
    assert queue.next(2, 5.0) == 0


@pytest.mark.parametrize(
    "make", [lambda times: PullQueue(2, times), lambda times: StreamingGroups(2, 2, times)]
)
def test_what_a_lost_worker_had_is_free_at_once(
    make: Callable[[ChunkTimes], QueueSchedule],
) -> None:
    times = ChunkTimes()
    times.add(5.0)
    schedule = make(times)
    assert [schedule.next(worker, 0.0) for worker in (0, 1)] == [0, 1]
    assert schedule.done(0, 0, 1.0)
    assert schedule.next(0, 1.0) is None
    schedule.lost(1)
    assert schedule.next(0, 1.0) == 1
