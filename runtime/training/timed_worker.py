"""A worker that waits instead of computing, and returns a small real gradient."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from parallel.training.gradient_coding.drawn import slowness
from runtime.training.chunk_work import ChunkResult, ChunkWork, Vector

_SIZE = 256
_FOREVER_S = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedSpec:
    """Speed of the workers."""

    sample_s: float
    """Seconds of a sample."""
    num_samples: int
    slow: float = 0.0
    """Share of the jobs at which a worker is a straggler."""
    factor: float = 1.0
    """How many times as long a straggler takes; infinite is a worker that hangs."""
    seed: int = 0


def start_vector() -> Vector:
    """Return the initial parameters."""
    return np.zeros(_SIZE, dtype=np.float32)


class TimedWorker:
    """Least squares on random data, with a wait for each sample."""

    def __init__(self, spec: TimedSpec, sleep: Callable[[float], None] = time.sleep) -> None:
        rng = np.random.default_rng(spec.seed)
        self._data = rng.standard_normal((spec.num_samples, _SIZE)).astype(np.float32)
        self._spec = spec
        self._sleep = sleep
        self._sum = start_vector()
        self._loss_sum = 0.0

    def work(self, work: ChunkWork, parameters: Vector, worker: int, life: int) -> ChunkResult:
        """Compute a chunk at these parameters; return the sum if this completes it."""
        start_s = time.perf_counter()
        rows = self._data[list(work.samples)]
        off = rows @ parameters - np.float32(1)
        coefficient = np.float32(work.coefficient)
        gradient = (coefficient * (off @ rows)).astype(np.float32)
        loss = float(coefficient) * float(off @ off) / 2
        self._sum = gradient if work.first else self._sum + gradient
        self._loss_sum = loss if work.first else self._loss_sum + loss
        spent_s = time.perf_counter() - start_s
        wait_s = len(work.samples) * self._spec.sample_s * self._slowness(work, worker, life)
        self._sleep(min(max(0.0, wait_s - spent_s), _FOREVER_S))
        return ChunkResult(
            key=work.key,
            gradient=self._sum if work.last else None,
            loss_sum=self._loss_sum,
            seconds=time.perf_counter() - start_s,
        )

    def _slowness(self, work: ChunkWork, worker: int, life: int) -> float:
        spec = self._spec
        return slowness(spec.seed, work.version, worker, life, slow=spec.slow, factor=spec.factor)
