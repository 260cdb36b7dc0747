"""Workers in one process, on a clock that only moves while a thread waits."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parallel.training.adamw import AdamW, Vector
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.coordinator import QueueCoordinator
from runtime.training.job.job_config import OptimizerConfig, TrainConfig, WorkersConfig
from runtime.training.training_step import SampleSizes, StepReport
from runtime.training.worker_pool import Arrived, WorkerLost

SIZE = 6
NUM_SAMPLES = 37
SAMPLE_SIZES = SampleSizes(num_tokens=[1] * NUM_SAMPLES, num_loss_tokens=[1] * NUM_SAMPLES)
POISONED: dict[int, float] = {}
"""What is added to the loss and the gradient of a sample."""
DATA = np.random.default_rng(0).standard_normal((NUM_SAMPLES, SIZE)).astype(np.float32)


def gradient(parameters: Vector, samples: Sequence[int]) -> tuple[Vector, float]:
    """Return the summed gradient of logistic losses, in a fixed order, and their sum."""
    total, loss = np.zeros(SIZE, dtype=np.float32), 0.0
    for index in samples:
        x = DATA[index]
        margin = float(x @ parameters) - 0.3
        chance = 1 / (1 + np.exp(-margin))
        loss -= float(np.log(1 - chance + 1e-9))
        total = total + np.float32(chance) * x + np.float32(POISONED.get(index, 0.0))
        loss += POISONED.get(index, 0.0)
    return total, loss


@dataclass
class FakePool:
    """Workers whose chunks take drawn times; some die, some hang forever."""

    size: int
    rng: random.Random
    slow: float = 0.0
    dies: float = 0.0
    hangs: float = 0.0
    now: float = 0.0
    parameters: dict[int, Vector] = field(default_factory=dict)
    sums: dict[int, tuple[Vector, float]] = field(default_factory=dict)
    running: dict[int, tuple[float, Arrived[ChunkResult] | WorkerLost]] = field(
        default_factory=dict
    )
    away: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    """When a worker's place is empty: it dies at the start of such a time, and comes at its end."""
    num_started: int = 0
    num_replaced: int = 0

    def now_s(self) -> float:
        return self.now

    def publish(self, version: int, parameters: Vector) -> None:
        self.parameters[version] = parameters.copy()

    def retire(self, version: int) -> None:
        del self.parameters[version]

    def is_ready(self, worker: int) -> bool:
        times = self.away.get(worker, [])
        return worker < self.size and not any(a <= self.now < b for a, b in times)

    def start(self, worker: int, work: ChunkWork) -> None:
        assert worker not in self.running, "a worker got a chunk while it had one"
        self.num_started += 1
        total, loss = gradient(self.parameters[work.version], work.samples)
        if work.coefficient != 1:
            total, loss = np.float32(work.coefficient) * total, work.coefficient * loss
        if not work.first:
            before, loss_before = self.sums[worker]
            total, loss = before + total, loss_before + loss
        self.sums[worker] = (total, loss)
        whole = total if work.last else None
        result = ChunkResult(key=work.key, gradient=whole, loss_sum=loss, seconds=1.0)
        seconds = 10.0 if self.rng.random() < self.slow else self.rng.uniform(0.9, 1.1)
        event: Arrived[ChunkResult] | WorkerLost = Arrived(worker, result)
        if self.rng.random() < self.dies:
            event = WorkerLost(worker, "killed")
        if self.rng.random() < self.hangs:
            seconds = float("inf")
        for start, _ in self.away.get(worker, []):
            if self.now < start <= self.now + seconds:
                seconds, event = start - self.now, WorkerLost(worker, "its node is gone")
        self.running[worker] = (self.now + seconds, event)

    def wait(self, timeout_s: float) -> list[Arrived[ChunkResult] | WorkerLost]:
        if not self.running:
            self.now += timeout_s
            return []
        worker = min(self.running, key=lambda w: self.running[w][0])
        at, event = self.running[worker]
        if at > self.now + timeout_s:
            self.now += timeout_s
            return []
        self.now = max(self.now, at)
        del self.running[worker]
        return [event]

    def replace(self, worker: int) -> None:
        self.num_replaced += 1
        del self.running[worker]


def make_config(*, steps: int = 12, scheme: str = "pull", workers: int = 4) -> TrainConfig:
    return TrainConfig(
        optimizer=OptimizerConfig(steps=steps, batch=16, microbatch=2, lr=0.05),
        workers=WorkersConfig(
            count=workers, scheme=scheme, lost_after_s=40.0, empty_after_s=40.0, max_losses=1000
        ),
        seed=3,
    )


def train(
    pool: FakePool, config: TrainConfig, optimizer: AdamW | None = None, steps: int | None = None
) -> tuple[AdamW, list[StepReport]]:
    optimizer = optimizer or AdamW.start(np.zeros(SIZE, dtype=np.float32))
    coordinator = QueueCoordinator(config, optimizer, pool, SAMPLE_SIZES, pool)
    reports = [coordinator.step() for _ in range(steps or config.optimizer.steps)]
    return optimizer, reports
