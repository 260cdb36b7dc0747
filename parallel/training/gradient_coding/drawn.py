"""Stragglers drawn by worker and job, keyed so that they can be predicted.

Timed workers and the simulator draw the same stragglers.
"""

import random
from dataclasses import dataclass

import numpy as np

from parallel.training.gradient_coding.worker_times import Seconds


def slowness(seed: int, job: int, worker: int, life: int, *, slow: float, factor: float) -> float:
    """Return the factor by which a worker is slow at its part of a job.

    Args:
        seed: random seed.
        job: number of the job.
        worker: number of the worker.
        life: how often it was replaced.
        slow: share of its jobs at which a worker is a straggler.
        factor: slowness of a straggler.
    """
    draw = random.Random(f"{seed}/{job}/{worker}/{life}").random()
    return factor if draw < slow else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnStragglers:
    """A `TimeModel` of workers that are equally fast except for these stragglers."""

    num_rounds: int
    batch_s: float
    """Seconds of a whole batch on one worker."""
    overhead_s: float
    """Seconds of a round for each worker in addition to computing."""
    slow: float
    factor: float
    seed: int = 0

    def seconds(self, round_number: int, loads: Seconds) -> Seconds:
        """Return each worker's time in a round for its share of a job's data, [workers]."""
        slow = np.array(
            [
                slowness(self.seed, round_number, w, 0, slow=self.slow, factor=self.factor)
                for w in range(len(loads))
            ]
        )
        taken: Seconds = self.overhead_s + self.batch_s * loads * slow
        return taken
