"""The workers of a fine-tuning job as Ray actors, one or several for each worker."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from actors.trainer_actor import TrainRankActor, TrainWorkerActor
from cluster.network.ray_errors import is_loss, result_of
from cluster.train.worker_ranks import WorkerRanks
from parallel.training.adamw import Vector
from runtime.clock import MonotonicClock
from runtime.errors import PacelineError, PeerError, PeerTimeout
from runtime.training.adapters.weight_layout import StartPoint
from runtime.training.chunk_work import ChunkResult, ChunkWork, PreferenceSums
from runtime.training.evaluation import evaluate
from runtime.training.job.job_config import TrainConfig
from runtime.training.streaming.streamed_samples import StreamedSamples
from runtime.training.training_data import Sample
from runtime.training.worker_pool import Arrived, WorkerLost

_START_TIMEOUT_S = 300.0


class RayPool:
    """Workers by number: starts calls on them, and replaces those of which a process dies."""

    def __init__(
        self,
        actor_class: type,
        arguments: Sequence[object],
        count: int,
        *,
        cpus: float = 0.0,
        gpus: float = 0.0,
        num_ranks: int = 1,
    ) -> None:
        """Start the actors, each with so many cores and GPUs; `wait_ready` waits for them."""
        self._num_ranks = num_ranks
        self._workers = [
            WorkerRanks(actor_class, arguments, cpus=cpus, gpus=gpus, num_ranks=num_ranks)
            for _ in range(count)
        ]
        self._lives = [0] * count
        self._starting: dict[Any, int] = {}
        self.pids: dict[int, int] = {}
        """Process ids of the workers that are or were ready; of a group, of one of its ranks."""
        self._calls: dict[Any, int] = {}
        self._followed: dict[Any, int] = {}
        """Calls of ranks whose result does not count; that they fail does."""
        self._parameters: dict[int, Any] = {}
        self._held: list[Arrived[ChunkResult] | WorkerLost] = []
        """Events of gradient work that arrived during an evaluation."""
        for worker in range(count):
            self._start(worker)

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self._workers)

    def wait_ready(self, num_needed: int) -> None:
        """Wait until so many workers have loaded the model; the others may join later.

        Raises:
            ConfigError: they cannot load it.
            PeerTimeout: they take too long, or the cluster has no room for them.
        """
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while (num_ready := sum(map(self.is_ready, range(self.size)))) < num_needed:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                missing = sorted(self._starting.values())
                raise PeerTimeout(
                    f"{num_ready} of {self.size} workers were ready after "
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
        first, *others = self._workers[worker].call(method, *arguments)
        self._calls[first] = worker
        self._followed |= dict.fromkeys(others, worker)

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
        waiting = [*self._calls, *self._followed, *self._starting]
        if not waiting:
            time.sleep(timeout_s)
            return []
        ray.wait(waiting, num_returns=1, timeout=timeout_s)
        done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        events: list[Arrived[Any] | WorkerLost] = []
        for call in done:
            event = self._event_of(call)
            if event is not None:
                events.append(event)
        return events

    def replace(self, worker: int) -> None:
        """End a worker's processes and start others."""
        self._workers[worker].kill()
        self._restart(worker)

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.close()

    def _event_of(self, call: Any) -> Arrived[Any] | WorkerLost | None:
        """Return what a call that ended means; None if nothing yet."""
        for calls in (self._calls, self._followed, self._starting):
            if call in calls:
                worker = calls.pop(call)
                break
        else:
            return None  # of a worker that another of its ranks has lost meanwhile
        try:
            result = result_of(call, f"worker {worker}")
        except PacelineError as error:
            # A rank that lost another one is lost with it.
            if not is_loss(error) and not (self._num_ranks > 1 and isinstance(error, PeerError)):
                raise
            self._workers[worker].kill()
            self._restart(worker)
            return WorkerLost(worker, str(error))
        if calls is self._starting:
            self.pids[worker] = result
        return Arrived(worker, result) if calls is self._calls else None

    def _restart(self, worker: int) -> None:
        """Start a worker again, and forget the calls of its earlier processes."""
        self._calls, self._followed, self._starting = (
            {call: other for call, other in calls.items() if other != worker}
            for calls in (self._calls, self._followed, self._starting)
        )
        self._lives[worker] += 1
        self._start(worker)

    def _start(self, worker: int) -> None:
        self._starting |= dict.fromkeys(self._workers[worker].start(), worker)


class ModelPool(RayPool):
    """Workers that hold a model; they compute gradients, and evaluate it."""

    def __init__(
        self, directory: Path, config: TrainConfig, samples: list[Sample] | StreamedSamples
    ) -> None:
        """Start the actors; `wait_ready` waits until they have loaded the model.

        Workers get all samples at their start, or those of a stream with each chunk.
        """
        self._stream = samples if isinstance(samples, StreamedSamples) else None
        held = [] if isinstance(samples, StreamedSamples) else samples
        arguments = (str(directory), ray.put(config), ray.put(held))
        workers = config.workers
        super().__init__(
            TrainWorkerActor if workers.tp == 1 else TrainRankActor,
            arguments,
            workers.count,
            cpus=workers.cpus,
            gpus=workers.gpus,
            num_ranks=workers.tp,
        )
        self._lost_after_s = workers.lost_after_s

    def start(self, worker: int, work: ChunkWork) -> None:
        """Start a chunk on a worker."""
        if self._stream is not None:
            work = replace(work, given=tuple(self._stream[index] for index in work.samples))
        super().start(worker, work)

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
        """Return the mean loss over tokens in the loss, or pairs; raises as `correct` does."""
        found = self._evaluate("mean_loss", parameters, [(batch,) for batch in batches])
        return float(sum(loss for loss, _ in found) / max(sum(num for _, num in found), 1))

    def preferences(self, parameters: Vector, batches: list[list[Sample]]) -> list[PreferenceSums]:
        """Return how far the model agrees with each batch's preferences; raises as `correct`."""
        return self._evaluate("preferences", parameters, [(batch,) for batch in batches])

    def answers(
        self,
        parameters: Vector,
        prompts: Sequence[tuple[int, ...]],
        *,
        ends: frozenset[int],
        max_tokens: int,
    ) -> list[list[int]]:
        """Return the greedy answer to each prompt; raises as `correct` does."""
        batches = [(prompt, ends, max_tokens) for prompt in prompts]
        return self._evaluate("answer", parameters, batches)

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
