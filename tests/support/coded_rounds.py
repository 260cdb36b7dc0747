"""Runs a scheme over a given pattern of stragglers, with real sums."""

from collections.abc import Callable

import numpy as np

from parallel.training.gradient_coding.patterns import History
from parallel.training.gradient_coding.schemes import Key, Scheme


def run_pattern(scheme: Scheme, history: History, num_jobs: int) -> tuple[list[int], float]:
    """Work through a pattern; returns the jobs that came out right and the largest load.

    A job counts if it decodes by the end of its round plus the delay and equals the serial sum.
    """
    rng = np.random.default_rng(3)
    gradients = rng.integers(-99, 99, (num_jobs, len(scheme.chunk_sizes), 2)).astype(np.float64)
    arrivals: dict[Key, int] = {}
    sent: dict[Key, np.ndarray] = {}
    right: list[int] = []
    load = 0.0
    for number in range(num_jobs + scheme.delay):
        for worker, tasks in enumerate(scheme.assign(number, num_jobs, arrivals)):
            done = sum(scheme.chunk_sizes[c] for task in tasks for c, _ in task.chunks)
            load = max(load, float(done))
            for task in tasks:
                assert task.worker == worker
                if not history[number, worker]:
                    sent[task.key] = sum(value * gradients[task.job, c] for c, value in task.chunks)
        for key in sent:
            arrivals.setdefault(key, number)
        due = number - scheme.delay
        if 0 <= due < num_jobs:
            weights = scheme.decode(due, arrivals)
            if weights is not None:
                total = sum(value * sent[key] for key, value in weights.items())
                if np.allclose(total, gradients[due].sum(axis=0), atol=1e-6):
                    right.append(due)
    return right, load


def draw_pattern(
    conforms: Callable[[History], bool], num_rounds: int, num_workers: int, seed: int
) -> History:
    """Return a random pattern that conforms in every round, as full as chance and rule allow."""
    rng = np.random.default_rng(seed)
    density = rng.choice([0.1, 0.3, 0.6, 0.95])
    history = np.zeros((num_rounds, num_workers), dtype=np.bool_)
    for number in range(num_rounds):
        for worker in rng.permutation(num_workers):
            history[number, worker] = rng.random() < density
            if history[number, worker] and not conforms(history[: number + 1]):
                history[number, worker] = False
    return history
