"""Queue schemes in virtual time: a step ends with its last chunk."""

import heapq
import math
from collections.abc import Callable

import numpy as np

from parallel.training.gradient_coding.queue_schedules import ChunkTimes, QueueSchedule
from parallel.training.gradient_coding.scheme_simulation import SimulatedScheme
from parallel.training.gradient_coding.worker_times import Seconds, TimeModel

_READY = -1
_NO_WORKER = -1


def simulate_queue(
    name: str,
    make: Callable[[ChunkTimes], QueueSchedule],
    times: TimeModel,
    *,
    num_workers: int,
    chunks_each: int,
    num_jobs: int | None = None,
    carries_over: bool = False,
    turn_s: float = 0.0,
) -> SimulatedScheme:
    """Run jobs whose chunks are handed out one at a time; a step ends with its last chunk.

    Args:
        name: name of the scheme in the result.
        make: makes the schedule of a step.
        times: time of a worker for its whole share, 1 / workers.
        num_workers: number of workers.
        chunks_each: chunks of a share.
        num_jobs: gradients to compute; None is as many as the model has rounds for.
        carries_over: whether a worker that computes a copy when a step ends finishes it first in
            the next step, as real workers do; else each step starts with all workers idle.
        turn_s: seconds in which the coordinator receives a chunk, one after the other.
    """
    num_jobs = num_jobs or times.num_rounds
    total_s, started, stragglers = 0.0, 0, 0
    busy_s = np.zeros(num_workers)
    chunk_times = ChunkTimes()
    for number in range(num_jobs):
        share = times.seconds(number, np.full(num_workers, 1 / num_workers))
        overhead = np.minimum(times.seconds(number, np.zeros(num_workers)), share)
        chunk_s = (share - overhead) / chunks_each
        begin_s = overhead + (busy_s if carries_over else 0.0)
        seconds, num_started, num_late, busy_s = _play(make(chunk_times), begin_s, chunk_s, turn_s)
        total_s += seconds
        started += num_started
        stragglers += num_late
    return SimulatedScheme(
        scheme=name,
        load=1.0,
        num_jobs=num_jobs,
        seconds=total_s,
        num_waits=0,
        stragglers=stragglers / num_jobs,
        work=started / (num_jobs * num_workers * chunks_each),
        is_exact=True,
    )


def _play(
    schedule: QueueSchedule, ready_s: Seconds, chunk_s: Seconds, turn_s: float
) -> tuple[float, int, int, Seconds]:
    """Return a step's seconds, the chunks started, the workers whose chunks others computed, and
    how long each worker is busy beyond the step.

    Args:
        schedule: the step's schedule.
        ready_s: when each worker can start its first chunk, [workers].
        chunk_s: each worker's time for a chunk, [workers].
        turn_s: seconds to receive a chunk.
    """
    events = [(float(at), worker, _READY) for worker, at in enumerate(ready_s)]
    heapq.heapify(events)
    idle: set[int] = set()
    first: dict[int, int] = {}
    """The worker that started each chunk first."""
    num_started = 0
    asks_s = math.inf  # when idle workers ask again
    now = 0.0
    while True:
        at_s, worker, chunk = heapq.heappop(events)
        now = max(now, at_s) + (turn_s if chunk != _READY else 0.0)
        if worker == _NO_WORKER:
            asks_s = math.inf
        else:
            idle.add(worker)
        if chunk != _READY:
            schedule.done(chunk, worker, now)
        if schedule.is_complete:
            left = [event for event in events if event[1] != _NO_WORKER]
            late = sum(chunk == _READY or first.get(chunk) == worker for _, worker, chunk in left)
            busy_s = np.zeros(len(ready_s))
            for at, other, _ in left:
                busy_s[other] = max(at - now, 0.0)
            return now, num_started, late, busy_s
        for worker in sorted(idle):
            following = schedule.next(worker, now)
            if following is not None:
                heapq.heappush(events, (now + float(chunk_s[worker]), worker, following))
                idle.discard(worker)
                first.setdefault(following, worker)
                num_started += 1
        late_s = schedule.next_copy_s(now)
        if idle and late_s < asks_s:
            asks_s = late_s
            heapq.heappush(events, (asks_s, _NO_WORKER, _READY))
