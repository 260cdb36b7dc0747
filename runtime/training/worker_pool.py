"""The workers of a training job as a dispatcher sees them: by number, and replaceable."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from parallel.training.adamw import Vector
from runtime.training.chunk_work import ChunkResult, ChunkWork

Work = TypeVar("Work", contravariant=True)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Arrived(Generic[Result]):
    """A worker returned a result."""

    worker: int
    result: Result


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died; its replacement is starting."""

    worker: int
    reason: str


class Pool(Protocol[Work, Result]):
    """Workers by number; each computes one piece of work at a time."""

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    def is_ready(self, worker: int) -> bool:
        """Return whether a worker has loaded the model; a replacement takes a while."""
        ...

    def start(self, worker: int, work: Work) -> None:
        """Start a piece of work on an idle worker that is ready."""
        ...

    def wait(self, timeout_s: float) -> list[Arrived[Result] | WorkerLost]:
        """Return the next events, or nothing after the timeout."""
        ...

    def replace(self, worker: int) -> None:
        """End a worker that hangs, and start another in its place."""
        ...


class TrainingPool(Pool[ChunkWork, ChunkResult], Protocol):
    """Workers that compute gradients at published parameters."""

    def publish(self, version: int, parameters: Vector) -> None:
        """Send the parameters of a version to the workers."""
        ...

    def retire(self, version: int) -> None:
        """Drop the parameters of a version; none of its chunks is started any more."""
        ...
