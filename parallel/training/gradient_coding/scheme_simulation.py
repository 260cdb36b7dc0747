"""Schemes in virtual time: rounds as a master would run them, on clusters that nobody has here.

The scheme objects are the ones that train. A time model says how long each worker takes; what is
late, what is waited for, and what decodes comes from the schemes.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from parallel.training.gradient_coding.patterns import GilbertElliott
from parallel.training.gradient_coding.queue_schedules import ChunkTimes, QueueSchedule
from parallel.training.gradient_coding.schemes import Key, Scheme, remembered
from parallel.training.gradient_coding.straggler_patience import StragglerPatience

Seconds = NDArray[np.float64]


class TimeModel(Protocol):
    """How long the workers take."""

    @property
    def num_rounds(self) -> int:
        """Rounds it has."""
        ...

    def seconds(self, round_number: int, loads: Seconds) -> Seconds:
        """Return each worker's time in a round for its share of a job's data, [workers]."""
        ...


class SlowStates:
    """Workers that turn slow and fast again: (overhead + work * n * load) * slowness.

    A worker's share without redundancy is 1 / n, so `work` is its computing time when it is not
    slow; with overhead near 0 computing takes the time, with work near 0 latency does. Which are
    slow follows a Gilbert-Elliott chain; how slow is `factor`, with an exponential tail.
    """

    def __init__(
        self,
        model: GilbertElliott,
        *,
        num_rounds: int,
        num_workers: int,
        factor: float,
        tail: float = 0.0,
        overhead: float = 0.05,
        work: float = 1.0,
        jitter: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.num_rounds = num_rounds
        self._workers, self._overhead, self._work = num_workers, overhead, work
        slow = model.draw(num_rounds, num_workers, seed)
        rng = np.random.default_rng(seed + 1)
        much = factor * (1 + tail * rng.exponential(size=slow.shape))
        self._slowness = (1 + jitter * rng.random(slow.shape)) * np.where(slow, much, 1.0)

    def seconds(self, round_number: int, loads: Seconds) -> Seconds:
        """Return each worker's time."""
        each = self._overhead + self._work * self._workers * loads
        taken: Seconds = each * self._slowness[round_number]
        return taken


class Trace:
    """Measured times of uncoded rounds, and how many seconds a unit of load adds."""

    def __init__(self, times: Seconds, slope: float) -> None:
        """Take times, [rounds, workers]."""
        self.num_rounds = len(times)
        self._times, self._slope = times, slope

    def seconds(self, round_number: int, loads: Seconds) -> Seconds:
        """Return each worker's time."""
        row = self._times[round_number]
        each: Seconds = row + self._slope * (loads - 1 / len(row))
        return np.maximum(each, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedScheme:
    """What a run came to."""

    scheme: str
    load: float
    """Largest share of a job's data that a worker reads in a round, times the workers: 1 is no
    redundancy."""
    num_jobs: int
    seconds: float
    num_waits: int
    """Rounds in which stragglers had to be waited for."""
    stragglers: float
    """Workers a round that were not waited for, in the mean; a queue's: whose chunks others did."""
    work: float
    """Data read, in multiples of what is needed once; a queue's speculative part included."""
    is_exact: bool


def simulate_rounds(
    scheme: Scheme,
    times: TimeModel,
    *,
    patience: float,
    num_jobs: int | None = None,
    turn_s: float = 0.0,
) -> SimulatedScheme:
    """Run jobs in rounds with deadlines.

    A worker is late once a round has taken (1 + patience) times what the fastest ones took; if the
    late ones are not such as the scheme tolerates, the round waits for the earliest of them until
    they are.

    Args:
        scheme: who does what.
        times: how long they take.
        patience: mu; 1 is twice the fast workers' time.
        num_jobs: gradients to compute; None is as many as the model has rounds for.
        turn_s: what the coordinator takes to receive a result; they come in one after the other.

    Raises:
        ValueError: there are too few rounds for a job.
        RuntimeError: a job did not decode in time, which no scheme may let happen.
    """
    num_jobs = num_jobs or times.num_rounds - scheme.delay
    if num_jobs < 1:
        raise ValueError(
            f"{scheme.name} decodes {scheme.delay} rounds late: more than {times.num_rounds} "
            "rounds are needed"
        )
    sizes = np.array([float(size) for size in scheme.chunk_sizes])
    arrivals: dict[Key, int] = {}
    history = np.zeros((0, scheme.num_workers), dtype=np.bool_)
    rule = StragglerPatience(patience)
    total_s = work = 0.0
    num_waits = 0
    for number in range(num_jobs + scheme.delay):
        plan = scheme.assign(number, num_jobs, arrivals)
        loads = np.array(
            [sum(sizes[c] for task in tasks for c, _ in task.chunks) for tasks in plan]
        )
        working = np.array([bool(tasks) for tasks in plan])
        if not working.any() or _all_decoded(scheme, number, num_jobs, arrivals):
            continue  # what is left has come already
        taken = np.where(working, times.seconds(number, loads), 0.0)
        taken = _received(taken, working, turn_s)
        late, seconds, waited = cut_round(scheme, history, taken, working, rule)
        history = np.vstack([history, late])
        total_s += seconds
        num_waits += waited
        work += float(loads.sum())
        for worker in np.flatnonzero(~late):
            for task in plan[worker]:
                arrivals.setdefault(task.key, number)
        due = number - scheme.delay
        if 0 <= due < num_jobs and scheme.decode(due, arrivals) is None:
            raise RuntimeError(f"{scheme.name} lost job {due} in round {number}")
        for key in [key for key in arrivals if key[0] < due]:
            del arrivals[key]
    return SimulatedScheme(
        scheme=scheme.name,
        load=float(scheme.load) * scheme.num_workers,
        num_jobs=num_jobs,
        seconds=total_s,
        num_waits=num_waits,
        stragglers=float(history.sum() / max(len(history), 1)),
        work=work / num_jobs,
        is_exact=scheme.is_exact,
    )


def _received(taken: Seconds, working: NDArray[np.bool_], turn_s: float) -> Seconds:
    """Return when each worker's result has been taken in, one after the other."""
    received, free_s = taken.copy(), 0.0
    for worker in sorted(np.flatnonzero(working), key=lambda w: taken[w]):
        free_s = max(free_s, float(taken[worker])) + turn_s
        received[worker] = free_s
    return received


def _all_decoded(scheme: Scheme, number: int, num_jobs: int, arrivals: dict[Key, int]) -> bool:
    """Return whether a round after the last job's has nothing left to bring."""
    if number < num_jobs:
        return False
    return all(
        scheme.decode(job, arrivals) is not None for job in range(number - scheme.delay, num_jobs)
    )


def cut_round(
    scheme: Scheme,
    history: NDArray[np.bool_],
    taken: Seconds,
    working: NDArray[np.bool_],
    rule: StragglerPatience,
) -> tuple[NDArray[np.bool_], float, bool]:
    """Return who is not waited for, how long the round takes, and whether it had to wait.

    The shortest wait: where the late ones are not such as the scheme tolerates, the round continues
    until the earliest of them is done, and so on.

    Args:
        scheme: says what it tolerates.
        history: who was not waited for in earlier rounds, [rounds, workers].
        taken: each worker's time in this round, [workers].
        working: who has something to do, [workers].
        rule: says from when on workers are late; takes the round in.
    """
    quick = np.sort(taken[working])
    deadline = rule.deadline_s(quick.tolist(), len(quick))
    rule.end_round(quick.tolist(), len(quick))
    late = working & (taken > deadline)
    earlier = remembered(scheme, history)

    def tolerated() -> bool:
        return scheme.conforms(np.vstack([earlier, late]))

    if tolerated():
        return late, float(min(deadline, quick[-1]) if late.any() else quick[-1]), False
    seconds = deadline
    for worker in sorted(np.flatnonzero(late), key=lambda w: taken[w]):
        late[worker] = False
        seconds = taken[worker]
        if tolerated():
            break
    return late, float(seconds), True


_READY = -1
_NOBODY = -1


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
        name: what to call it.
        make: a step's schedule.
        times: how long a worker takes for its whole share, 1 / workers.
        num_workers: how many there are.
        chunks_each: chunks that a share is cut into.
        num_jobs: gradients to compute; None is as many as the model has rounds for.
        carries_over: whether who still works on a copy when a step ends finishes it first in the
            next, as workers do; else each step begins with all of them.
        turn_s: what the coordinator takes to receive a chunk; they come in one after the other.
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
    """Return a step's seconds, the chunks started, the workers whose chunks others had to do, and
    how long each is busy beyond the step.

    Args:
        schedule: of the step.
        ready_s: when each worker can start its first chunk, [workers].
        chunk_s: what each then takes for one, [workers].
        turn_s: what receiving one takes.
    """
    events = [(float(at), worker, _READY) for worker, at in enumerate(ready_s)]
    heapq.heapify(events)
    idle: set[int] = set()
    first: dict[int, int] = {}
    """Who began each chunk."""
    num_started = 0
    asks_s = math.inf  # when idle workers ask again
    now = 0.0
    while True:
        at_s, worker, chunk = heapq.heappop(events)
        now = max(now, at_s) + (turn_s if chunk != _READY else 0.0)
        if worker == _NOBODY:
            asks_s = math.inf
        else:
            idle.add(worker)
        if chunk != _READY:
            schedule.done(chunk, worker, now)
        if schedule.is_complete:
            left = [event for event in events if event[1] != _NOBODY]
            late = sum(chunk == _READY or first.get(chunk) == who for _, who, chunk in left)
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
            heapq.heappush(events, (asks_s, _NOBODY, _READY))
