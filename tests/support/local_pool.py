"""A training worker in this process, as a pool of one."""

from pathlib import Path

from parallel.training.adamw import AdamW, Vector
from runtime.clock import ManualClock
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.job.job_config import TrainConfig
from runtime.training.scheme_plan import training_steps
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample
from runtime.training.training_step import SampleSizes
from runtime.training.worker import TrainWorker
from runtime.training.worker_pool import Arrived, WorkerLost


class LocalPool:
    """Computes a chunk as it is started."""

    size = 1

    def __init__(self, worker: TrainWorker) -> None:
        self._worker = worker
        self._parameters: dict[int, Vector] = {}
        self._events: list[Arrived[ChunkResult] | WorkerLost] = []

    def is_ready(self, worker: int) -> bool:
        return worker == 0

    def publish(self, version: int, parameters: Vector) -> None:
        self._parameters[version] = parameters

    def retire(self, version: int) -> None:
        del self._parameters[version]

    def start(self, worker: int, work: ChunkWork) -> None:
        result = self._worker.work(work, self._parameters[work.version], worker, 0)
        self._events.append(Arrived(worker, result))

    def wait(self, timeout_s: float) -> list[Arrived[ChunkResult] | WorkerLost]:  # noqa: ARG002
        events, self._events = self._events, []
        return events

    def replace(self, worker: int) -> None:
        raise AssertionError(worker)


def train_here(
    directory: Path, config: TrainConfig, samples: list[Sample]
) -> tuple[AdamW, list[float]]:
    """Train in this process; return the end, and the loss of each step."""
    optimizer = AdamW.start(Trainable.load(directory, config).get())
    pool = LocalPool(TrainWorker(directory, config, samples))
    steps = training_steps(config, [optimizer], pool, SampleSizes.of(samples), ManualClock())
    return optimizer, [report.loss for report in steps]
