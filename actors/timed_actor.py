"""Ray shell of a training worker whose computing is a timed wait."""

import os

from runtime.training.chunk_work import ChunkResult, ChunkWork, Vector
from runtime.training.timed_worker import TimedSpec, TimedWorker


class TimedWorkerActor:
    """A worker of a bench of schemes."""

    def __init__(self, spec: TimedSpec) -> None:
        self._worker = TimedWorker(spec)

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def work(self, work: ChunkWork, parameters: Vector, worker: int, life: int) -> ChunkResult:
        """Compute a chunk at these parameters; return the sum it ends, if it ends one."""
        return self._worker.work(work, parameters, worker, life)
