"""The workers of a fine-tuning job as Ray actors."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.trainer_actor import TrainWorkerActor
from cluster.network.ray_errors import is_loss, result_of
from parallel.training.adamw import Vector
from runtime.clock import MonotonicClock
from runtime.errors import PacelineError, PeerTimeout
from runtime.training.adapters.weight_layout import StartPoint
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.evaluation import evaluate
from runtime.training.job.job_config import TrainConfig
from runtime.training.training_data import Sample
from runtime.training.worker_pool import Arrived, WorkerLost

_START_TIMEOUT_S = 300.0


class RayPool:
    """Worker actors of one class by number: starts calls on them, and replaces those that die."""

    def __init__(
        self,
        actor_class: type,
        arguments: Sequence[object],
        count: int,
        *,
        cpus: float = 0.0,
        gpus: float = 0.0,
    ) -> None:
        """Start the actors, each with so many cores and GPUs; `wait_ready` waits for them."""
        self._remote_class = ray.remote(actor_class).options(num_cpus=cpus, num_gpus=gpus)
        self._arguments = arguments
        self._actors = [self._start_actor() for _ in range(count)]
        self._lives = [0] * count
        self._starting = {actor.pid.remote(): n for n, actor in enumerate(self._actors)}
        self.pids: dict[int, int] = {}
        """Process ids of the workers that are or were ready."""
        self._calls: dict[Any, int] = {}
        self._parameters: dict[int, Any] = {}
        self._held: list[Arrived[ChunkResult] | WorkerLost] = []
        """Events of gradient work that arrived during an evaluation."""

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self._actors)

    def wait_ready(self, num_needed: int) -> None:
        """Wait until so many workers have loaded the model; the others may join later.

        Raises:
            ConfigError: they cannot load it.
            PeerTimeout: they take too long, or the cluster has no room for them.
        """
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while len(self.pids) < num_needed:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                missing = sorted(self._starting.values())
                raise PeerTimeout(
                    f"{len(self.pids)} of {self.size} workers were ready after "
                    f"{_START_TIMEOUT_S:.0f} s, {num_needed} are needed; worker {missing[0]} is "
                    "not: does the cluster have room for it (`workers.count`, `workers.min`, "
                    "`workers.cpus`, `workers.gpus`)?"
                )
            done, _ = ray.wait(list(self._starting), num_returns=1, timeout=left_s)
            for call in done:
                worker = self._starting.pop(call)
                self.pids[worker] = result_of(call, f"worker {worker}")

    def publish(self, version: int, parameters: Vector) -> None:
        """Put the parameters of a version into Ray's object store."""
        self._parameters[version] = ray.put(parameters)

    def retire(self, version: int) -> None:
        """Drop the parameters of a version."""
        self._parameters.pop(version, None)

    def is_ready(self, worker: int) -> bool:
        """Return whether a worker has loaded the model."""
        return worker not in self._starting.values()

    def busy_workers(self) -> set[int]:
        """Return the workers that have not answered a call yet."""
        return set(self._calls.values())

    def start(self, worker: int, work: ChunkWork) -> None:
        """Start a chunk on a worker."""
        parameters, life = self._parameters[work.version], self._lives[worker]
        self.call(worker, "work", work, parameters, worker, life)

    def call(self, worker: int, method: str, *arguments: object) -> None:
        """Start a call of a worker's method; `collect` returns the result."""
        self._calls[getattr(self._actors[worker], method).remote(*arguments)] = worker

    def wait(self, timeout_s: float) -> list[Arrived[ChunkResult] | WorkerLost]:
        """Return the next events, or nothing after the timeout; a worker's own error ends the job.

        Raises:
            PacelineError: a worker failed at a chunk.
        """
        held, self._held = self._held, []
        return held + self.collect(0 if held else timeout_s)

    def hold(self, event: Arrived[Any] | WorkerLost) -> None:
        """Keep an event for the next `wait`."""
        self._held.append(event)

    def collect(self, timeout_s: float) -> list[Arrived[Any] | WorkerLost]:
        """Return the new events of all calls, or nothing after the timeout; raises as `wait`."""
        waiting = [*self._calls, *self._starting]
        if not waiting:
            time.sleep(timeout_s)
            return []
        ray.wait(waiting, num_returns=1, timeout=timeout_s)
        done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        events: list[Arrived[Any] | WorkerLost] = []
        for call in done:
            is_start = call in self._starting
            worker = self._starting.pop(call) if is_start else self._calls.pop(call)
            try:
                result = result_of(call, f"worker {worker}")
                if is_start:
                    self.pids[worker] = result
                else:
                    events.append(Arrived(worker, result))
            except PacelineError as error:
                if not is_loss(error):
                    raise
                self._restart(worker)
                events.append(WorkerLost(worker, str(error)))
        return events

    def replace(self, worker: int) -> None:
        """End a worker's process and start another."""
        ray.kill(self._actors[worker])
        self._calls = {call: other for call, other in self._calls.items() if other != worker}
        self._starting = {call: other for call, other in self._starting.items() if other != worker}
        self._restart(worker)

    def close(self) -> None:
        """End all workers."""
        for actor in self._actors:
            ray.kill(actor)

    def _restart(self, worker: int) -> None:
        self._actors[worker] = self._start_actor()
        self._lives[worker] += 1
        self._starting[self._actors[worker].pid.remote()] = worker

    def _start_actor(self) -> Any:
        return self._remote_class.remote(*self._arguments)


class ModelPool(RayPool):
    """Workers that hold a model; they compute gradients, and evaluate it."""

    def __init__(self, directory: Path, config: TrainConfig, samples: list[Sample]) -> None:
        """Start the actors; `wait_ready` waits until they have loaded the model."""
        arguments = (str(directory), ray.put(config), ray.put(samples))
        workers = config.workers
        super().__init__(
            TrainWorkerActor, arguments, workers.count, cpus=workers.cpus, gpus=workers.gpus
        )
        self._lost_after_s = workers.lost_after_s

    def start_point(self) -> StartPoint:
        """Return what is trained, and its values at the start; call it before any step.

        Raises:
            PeerLost: as `correct` does.
        """
        (found,) = self._on_any_worker("start_point", (), [()])
        assert isinstance(found, StartPoint)
        return found

    def correct(
        self, parameters: Vector, batches: list[tuple[list[list[Sample]], list[int]]]
    ) -> float:
        """Return for how many groups the right alternative is the likeliest.

        Args:
            parameters: the weights.
            batches: groups of alternatives, and the index of the right one in each.

        Raises:
            PeerLost: one batch lost a worker too often, or no worker was ready for too long.
        """
        hits: list[float] = self._evaluate("correct", parameters, batches)
        return sum(hits)

    def mean_loss(self, parameters: Vector, batches: list[list[Sample]]) -> float:
        """Return the mean loss over the tokens in the loss; raises as `correct` does."""
        found = self._evaluate("mean_loss", parameters, [(batch,) for batch in batches])
        return float(sum(loss for loss, _ in found) / max(sum(num for _, num in found), 1))

    def _evaluate(
        self, method: str, parameters: Vector, batches: Sequence[tuple[object, ...]]
    ) -> list[Any]:
        return self._on_any_worker(method, (ray.put(parameters),), batches)

    def _on_any_worker(
        self, method: str, shared: tuple[object, ...], batches: Sequence[tuple[object, ...]]
    ) -> list[Any]:
        evaluators = _Evaluators(self, method, shared, self._lost_after_s)
        clock = MonotonicClock()
        return evaluate(evaluators, batches, clock, lost_after_s=self._lost_after_s)


class _Evaluators:
    """The workers of a pool between two steps of training, as a pool that evaluates batches.

    Workers may still be busy with gradient work that the last step did not wait for. Its results
    are held for the next step; a worker that stays silent at it is replaced.
    """

    def __init__(
        self, pool: RayPool, method: str, shared: tuple[object, ...], lost_after_s: float
    ) -> None:
        self._pool = pool
        self._method = method
        self._shared = shared
        self._at_gradients = pool.busy_workers()
        self._deadline_s = time.monotonic() + lost_after_s

    @property
    def size(self) -> int:
        return self._pool.size

    def is_ready(self, worker: int) -> bool:
        return worker not in self._at_gradients and self._pool.is_ready(worker)

    def start(self, worker: int, batch: tuple[object, ...]) -> None:
        self._pool.call(worker, self._method, *self._shared, *batch)

    def wait(self, timeout_s: float) -> list[Arrived[Any] | WorkerLost]:
        events: list[Arrived[Any] | WorkerLost] = []
        starting = {worker for worker in range(self.size) if not self._pool.is_ready(worker)}
        for event in self._pool.collect(timeout_s):
            if event.worker in self._at_gradients | starting:
                self._at_gradients.discard(event.worker)
                self._pool.hold(event)
            else:
                events.append(event)
        if time.monotonic() > self._deadline_s:
            for worker in self._at_gradients:
                self._pool.replace(worker)
                self._pool.hold(WorkerLost(worker, "silent during an evaluation"))
            self._at_gradients.clear()
        return events

    def replace(self, worker: int) -> None:
        self._pool.replace(worker)
