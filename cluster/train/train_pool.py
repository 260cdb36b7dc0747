"""The workers of a fine-tuning job as Ray actors."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from actors.trainer_actor import TrainWorkerActor
from cluster.network.ray_errors import LOSSES, translated
from parallel.training.adamw import Vector
from runtime.errors import PeerLost, PeerTimeout
from runtime.training.chunk_work import ChunkWork
from runtime.training.coordinator import Arrived, WorkerLost
from runtime.training.job.job_config import TrainConfig
from runtime.training.training_data import Sample

_START_TIMEOUT_S = 300.0
_WAIT_S = 1.0
_EVAL_TRIES = 5
"""Of one batch, before the evaluation is given up."""


class WorkerPool:
    """Starts the workers, gives them chunks, and replaces those that die."""

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
        self._made = ray.remote(actor_class).options(num_cpus=cpus, num_gpus=gpus)
        self._arguments = arguments
        self._actors = [self._start_one() for _ in range(count)]
        self._lives = [0] * count
        self._starting = {actor.pid.remote(): n for n, actor in enumerate(self._actors)}
        self.pids: dict[int, int] = {}
        """Process ids of the workers that are ready, or were."""
        self._calls: dict[Any, int] = {}
        self._parameters: dict[int, Any] = {}
        self._held: list[Arrived | WorkerLost] = []
        """Events that came while something else was waited for."""

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._actors)

    def wait_ready(self, least: int) -> None:
        """Wait until so many workers have loaded the model; the others may come later.

        Raises:
            ConfigError: they cannot load it.
            PeerTimeout: they take too long, or the cluster has no room for them.
        """
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while len(self.pids) < least:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                missing = sorted(self._starting.values())
                raise PeerTimeout(
                    f"{len(self.pids)} of {self.size} workers were ready after "
                    f"{_START_TIMEOUT_S:.0f} s, {least} are needed; worker {missing[0]} is not: "
                    "has the cluster room for it (workers.count, min, cpus, gpus)?"
                )
            done, _ = ray.wait(list(self._starting), num_returns=1, timeout=left_s)
            for call in done:
                worker = self._starting.pop(call)
                try:
                    self.pids[worker] = ray.get(call)
                except RayError as error:
                    raise translated(error, f"worker {worker}") from error

    def publish(self, version: int, parameters: Vector) -> None:
        """Put a job's parameters where all workers find them."""
        self._parameters[version] = ray.put(parameters)

    def retire(self, version: int) -> None:
        """Forget a job's parameters."""
        self._parameters.pop(version, None)

    def is_ready(self, worker: int) -> bool:
        """Tell whether a worker has loaded the model."""
        return worker not in self._starting.values()

    def start(self, worker: int, work: ChunkWork) -> None:
        """Let a worker compute a chunk."""
        parameters, life = self._parameters[work.version], self._lives[worker]
        self._calls[self._actors[worker].work.remote(work, parameters, worker, life)] = worker

    def wait(self, timeout_s: float) -> list[Arrived | WorkerLost]:
        """Return what came back, and who died; a worker's own error ends the job.

        Raises:
            PacelineError: a worker failed at a chunk.
        """
        events, self._held = self._held, []
        waiting = [*self._calls, *self._starting]
        done: list[Any] = []
        if waiting:
            ray.wait(waiting, num_returns=1, timeout=0 if events else timeout_s)
            done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        elif not events:
            time.sleep(timeout_s)
        for call in done:
            is_start = call in self._starting
            worker = self._starting.pop(call) if is_start else self._calls.pop(call)
            try:
                result = ray.get(call)
                if is_start:
                    self.pids[worker] = result
                else:
                    events.append(Arrived(worker, result))
            except LOSSES as error:
                self._put_in_place(worker)
                events.append(WorkerLost(worker, str(error).strip().splitlines()[0]))
            except RayError as error:
                raise translated(error, f"worker {worker}") from error
        return events

    def replace(self, worker: int) -> None:
        """End a worker's process and start another."""
        ray.kill(self._actors[worker])
        self._calls = {call: who for call, who in self._calls.items() if who != worker}
        self._starting = {call: who for call, who in self._starting.items() if who != worker}
        self._put_in_place(worker)

    def close(self) -> None:
        """End all workers."""
        for actor in self._actors:
            ray.kill(actor)

    def _put_in_place(self, worker: int) -> None:
        self._actors[worker] = self._start_one()
        self._lives[worker] += 1
        self._starting[self._actors[worker].pid.remote()] = worker

    def _start_one(self) -> Any:
        return self._made.remote(*self._arguments)


class RayPool(WorkerPool):
    """Workers that have a model, and can also measure it."""

    def __init__(self, directory: Path, config: TrainConfig, samples: list[Sample]) -> None:
        """Start the actors; `pids` waits until they have loaded the model."""
        arguments = (str(directory), ray.put(config), ray.put(samples))
        workers = config.workers
        super().__init__(
            TrainWorkerActor, arguments, workers.count, cpus=workers.cpus, gpus=workers.gpus
        )
        self._lost_after_s = workers.lost_after_s

    def correct(
        self, parameters: Vector, batches: list[tuple[list[list[Sample]], list[int]]]
    ) -> int:
        """Return for how many groups the right alternative is the likeliest, by all workers.

        Args:
            parameters: the weights.
            batches: groups of alternatives, and the place of the right one in each.

        Raises:
            PeerLost: a batch ends no worker that has it.
        """
        return sum(self._spread("correct", parameters, batches))

    def mean_loss(self, parameters: Vector, batches: list[list[Sample]]) -> float:
        """Return the mean loss over the batches' learnt tokens; raises as `correct` does."""
        found = self._spread("mean_loss", parameters, [(batch,) for batch in batches])
        return float(sum(loss for loss, _ in found) / max(sum(num for _, num in found), 1))

    def _spread(self, method: str, parameters: Vector, batches: Iterable[Any]) -> list[Any]:
        """Return a method's answers for all batches; who dies or hangs is replaced."""
        known = ray.put(parameters)
        left = deque((batch, 0) for batch in batches)
        running: dict[Any, tuple[Any, int, float]] = {}
        """Of each call: its batch with the number of earlier tries, its worker, its start."""
        found = []
        moved_s = time.monotonic()
        while left or running:
            at_work = {worker for _, worker, _ in running.values()} | set(self._calls.values())
            for worker in range(self.size):
                if left and worker not in at_work and self.is_ready(worker):
                    batch, tries = left.popleft()
                    call = getattr(self._actors[worker], method).remote(known, *batch)
                    running[call] = ((batch, tries), worker, time.monotonic())
            waiting = [*running, *self._starting, *self._calls]
            ready, _ = ray.wait(waiting, num_returns=1, timeout=_WAIT_S)
            ended = [call for call in ready if call in running]
            for call in ended:
                item, worker, _ = running.pop(call)
                try:
                    found.append(ray.get(call))
                except LOSSES:
                    self._put_in_place(worker)
                    left.append(_again(item, worker))
                except RayError as error:
                    raise translated(error, f"worker {worker}") from error
            now_s = time.monotonic()
            if running:
                moved_s = now_s
            elif now_s - moved_s > self._lost_after_s:
                self._end_silent()
            if now_s - moved_s > _START_TIMEOUT_S:
                raise PeerLost(f"no worker was ready to evaluate for {_START_TIMEOUT_S:.0f} s")
            for call, (item, worker, since_s) in list(running.items()):
                if now_s - since_s > self._lost_after_s:
                    del running[call]
                    self.replace(worker)
                    left.append(_again(item, worker))
            if len(ended) < len(ready):
                self._held += self.wait(0)  # of chunks that workers were still at
        return found

    def _end_silent(self) -> None:
        """Replace workers that do not come back from their chunks."""
        for worker in set(self._calls.values()):
            self.replace(worker)
            self._held.append(WorkerLost(worker, "silent during an evaluation"))


def _again(item: tuple[Any, int], worker: int) -> tuple[Any, int]:
    """Return a batch to be tried once more; raises PeerLost if that was often enough."""
    batch, tries = item
    if tries + 1 == _EVAL_TRIES:
        raise PeerLost(f"worker {worker} is the {_EVAL_TRIES}th that was lost at one evaluation")
    return batch, tries + 1
