"""Schemes in virtual time: rounds as a coordinator runs them, on clusters that do not exist.

The scheme objects are those that train. A time model gives the time of each worker; the schemes
decide which workers are late, which are waited for, and what decodes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parallel.training.gradient_coding.schemes import Key, Scheme, remembered
from parallel.training.gradient_coding.straggler_patience import StragglerPatience
from parallel.training.gradient_coding.worker_times import Seconds, TimeModel


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedScheme:
    """Result of a simulated run."""

    scheme: str
    load: float
    """Largest share of a job's data that a worker reads in a round, times the workers: 1 is no
    redundancy."""
    num_jobs: int
    seconds: float
    num_waits: int
    """Rounds in which stragglers had to be waited for."""
    stragglers: float
    """Mean workers a round that were not waited for; with a queue, whose chunks others computed."""
    work: float
    """Data read, in multiples of the batch; backup copies included."""
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

    A worker is late once a round has taken (1 + patience) times the time of the fastest ones. If
    the scheme does not tolerate the late ones, the round waits for the earliest of them, and so on.

    Args:
        scheme: assigns the work and decodes.
        times: the workers' times.
        patience: mu; 1 means twice the time of the fast workers.
        num_jobs: gradients to compute; None is as many as the model has rounds for.
        turn_s: seconds in which the coordinator receives a result, one after the other.

    Raises:
        ValueError: there are too few rounds for a job.
        RuntimeError: a job did not decode in time, which is a defect of the scheme.
    """
    num_jobs = num_jobs or _jobs_in(scheme, times.num_rounds)
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
            continue  # all missing results have arrived
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
        _end_job(scheme, number, num_jobs, arrivals)
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


def _jobs_in(scheme: Scheme, num_rounds: int) -> int:
    if num_rounds <= scheme.delay:
        raise ValueError(
            f"{scheme.name} decodes {scheme.delay} rounds late: more than {num_rounds} "
            "rounds are needed"
        )
    return num_rounds - scheme.delay


def _end_job(scheme: Scheme, number: int, num_jobs: int, arrivals: dict[Key, int]) -> None:
    """Check that the job due in a round decodes, and drop the results of earlier jobs."""
    due = number - scheme.delay
    if 0 <= due < num_jobs and scheme.decode(due, arrivals) is None:
        raise RuntimeError(f"{scheme.name} lost job {due} in round {number}")
    for key in [key for key in arrivals if key[0] < due]:
        del arrivals[key]


def _received(taken: Seconds, working: NDArray[np.bool_], turn_s: float) -> Seconds:
    """Return when the coordinator has received each worker's result, one after the other."""
    received, free_s = taken.copy(), 0.0
    for worker in sorted(np.flatnonzero(working), key=lambda w: taken[w]):
        free_s = max(free_s, float(taken[worker])) + turn_s
        received[worker] = free_s
    return received


def _all_decoded(scheme: Scheme, number: int, num_jobs: int, arrivals: dict[Key, int]) -> bool:
    """Return whether a round after the last job's has nothing left to compute."""
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
    """Return which workers are not waited for, the round's seconds, and whether it had to wait.

    The wait is the shortest one: if the scheme does not tolerate the late workers, the round
    continues until the earliest of them is done, and so on.

    Args:
        scheme: decides which lateness it tolerates.
        history: workers not waited for in earlier rounds, [rounds, workers].
        taken: each worker's time in this round, [workers].
        working: workers with work in this round, [workers].
        rule: decides when workers are late; records the round.
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
