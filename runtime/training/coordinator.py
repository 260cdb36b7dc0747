"""The coordinator of a training job: hands chunks out, adds their gradients up, makes the step.

Workers may be slow, hang, die or come back late. A step takes each chunk once, and adds the chunks
in their order, so its result does not depend on who computed what, or when.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from parallel.training.adamw import AdamW, Vector, clipped, learning_rate
from parallel.training.gradient_coding.dispatch import Dispatcher, Pace, PullQueue, StreamingGroups
from parallel.training.sampler import dropout_seed, split_evenly, step_samples
from runtime.clock import Clock
from runtime.errors import PeerLost
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.job.job_config import OptimizerConfig, TrainConfig

_LOG = logging.getLogger("paceline.train")
_WAIT_S = 1.0
_SHORTEST_WAIT_S = 0.001
NOBODY_S = 300.0
"""A job whose workers are all gone for so long ends; it can be gone on with."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A worker brought a chunk's gradient."""

    worker: int
    result: ChunkResult


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died; another is on its way in its place."""

    worker: int
    reason: str


class Pool(Protocol):
    """The workers, by number."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def publish(self, version: int, parameters: Vector) -> None:
        """Make a job's parameters known."""
        ...

    def retire(self, version: int) -> None:
        """Forget a job's parameters; none of its chunks is started any more."""
        ...

    def is_ready(self, worker: int) -> bool:
        """Tell whether a worker has loaded the model; one that was replaced takes a while."""
        ...

    def start(self, worker: int, work: ChunkWork) -> None:
        """Let an idle worker that is ready compute a chunk."""
        ...

    def wait(self, timeout_s: float) -> list[Arrived | WorkerLost]:
        """Return what happened, or nothing once the time is over."""
        ...

    def replace(self, worker: int) -> None:
        """End a worker that hangs, and start another in its place."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did, and how long it took."""

    step: int
    """Steps made, this one included."""
    loss: float
    """Mean over the learnt tokens, before the step."""
    lr: float
    gradient_norm: float
    num_tokens: int
    seconds: float
    num_repeated: int
    """Chunks that were started a second time."""
    num_stragglers: int
    """Workers that were late; with a queue, those whose chunks others brought."""
    num_lost: int
    """Workers that died or were given up."""
    trial: int = 0
    """Which of the models that are trained in turn."""
    waited: bool = False
    """Whether the round had to wait for a straggler, for its pattern was not tolerated."""


class Coordinator:
    """Makes one step after the other."""

    def __init__(
        self,
        config: TrainConfig,
        optimizer: AdamW,
        pool: Pool,
        num_learnt: Sequence[int],
        clock: Clock,
    ) -> None:
        """Train with a queue of chunks.

        Args:
            config: the job's.
            optimizer: goes on from its step.
            pool: the workers.
            num_learnt: learnt tokens of each sample.
            clock: says how long a step took.
        """
        self.optimizer = optimizer
        self._config = config
        self._pool = pool
        self._num_learnt = num_learnt
        self._clock = clock
        self._busy_since: dict[int, float] = {}
        self._helping: set[int] = set()
        """Workers at a chunk of this step that another one began."""
        self._num_losses = 0
        self._pace = Pace()

    def step(self) -> StepReport:
        """Make the next step.

        Raises:
            PeerLost: more workers were lost than the configuration allows.
        """
        start_s = self._clock.now_s()
        number = self.optimizer.step
        ids = batch_of(self._config, number, len(self._num_learnt))
        chunks = split_evenly(ids, self._config.num_chunks)
        self._pool.publish(number, self.optimizer.parameters)
        losses_before = self._num_losses
        results, num_started = self._collect(number, chunks)
        self._pool.retire(number)
        total = np.zeros_like(self.optimizer.parameters)
        for chunk in range(len(chunks)):  # in this order, whatever order they came in
            gradient = results[chunk].gradient
            assert gradient is not None
            total += gradient
        num_tokens = sum(self._num_learnt[index] for index in ids)
        lr, norm = make_step(self.optimizer, total, num_tokens, self._config.optimizer)
        return StepReport(
            step=self.optimizer.step,
            loss=sum(results[chunk].loss_sum for chunk in range(len(chunks))) / max(num_tokens, 1),
            lr=lr,
            gradient_norm=norm,
            num_tokens=num_tokens,
            seconds=self._clock.now_s() - start_s,
            num_repeated=num_started - len(chunks),
            num_stragglers=len(self._busy_since.keys() - self._helping),
            num_lost=self._num_losses - losses_before,
        )

    def _collect(
        self, version: int, chunks: Sequence[Sequence[int]]
    ) -> tuple[dict[int, ChunkResult], int]:
        """Return every chunk's result, and how many were started."""
        dispatcher = self._dispatcher(len(chunks))
        results: dict[int, ChunkResult] = {}
        begun: set[int] = set()
        self._helping = set()
        num_started = self._start_idle(dispatcher, version, chunks, begun)
        idle_since_s = self._clock.now_s()
        while not dispatcher.is_complete:
            if self._busy_since:
                idle_since_s = self._clock.now_s()
            elif self._clock.now_s() - idle_since_s > NOBODY_S:
                raise PeerLost(
                    f"no worker that may take a chunk of step {version} was ready for "
                    f"{NOBODY_S:g} s: does the cluster have room for any?"
                )
            now_s = self._clock.now_s()
            left_s = dispatcher.next_copy_s(now_s) - now_s
            for event in self._pool.wait(min(_WAIT_S, max(left_s, _SHORTEST_WAIT_S))):
                if isinstance(event, WorkerLost):
                    self._lose(event.worker, event.reason, dispatcher)
                    continue
                self._busy_since.pop(event.worker, None)
                job, chunk, _ = event.result.key
                # A late answer to an earlier step, or a second copy, counts for nothing.
                if job == version and dispatcher.done(chunk, event.worker, self._clock.now_s()):
                    results[chunk] = event.result
            self._give_up_on_silent(dispatcher)
            if not dispatcher.is_complete:
                num_started += self._start_idle(dispatcher, version, chunks, begun)
        return results, num_started

    def _dispatcher(self, num_chunks: int) -> Dispatcher:
        if self._config.workers.scheme == "frc-stream":
            return StreamingGroups(self._pool.size, self._config.workers.group, self._pace)
        return PullQueue(num_chunks, self._pace)

    def _start_idle(
        self,
        dispatcher: Dispatcher,
        version: int,
        chunks: Sequence[Sequence[int]],
        begun: set[int],
    ) -> int:
        num_started = 0
        for worker in range(self._pool.size):
            if worker in self._busy_since or not self._pool.is_ready(worker):
                continue
            chunk = dispatcher.next(worker, self._clock.now_s())
            if chunk is not None:
                work = ChunkWork(
                    version=version,
                    key=(version, chunk, 0),
                    samples=tuple(chunks[chunk]),
                    dropout_seed=dropout_seed(self._config.seed, version, chunk),
                )
                self._pool.start(worker, work)
                self._busy_since[worker] = self._clock.now_s()
                self._helping.discard(worker)
                if chunk in begun:
                    self._helping.add(worker)
                begun.add(chunk)
                num_started += 1
        return num_started

    def _give_up_on_silent(self, dispatcher: Dispatcher) -> None:
        limit_s = self._config.workers.lost_after_s
        for worker, since_s in list(self._busy_since.items()):
            if self._clock.now_s() - since_s > limit_s:
                self._pool.replace(worker)
                self._lose(worker, f"silent for {limit_s:g} s", dispatcher)

    def _lose(self, worker: int, reason: str, dispatcher: Dispatcher) -> None:
        _LOG.warning("worker %d lost, another takes its place: %s", worker, reason)
        self._busy_since.pop(worker, None)
        dispatcher.lost(worker)
        self._num_losses += 1
        if self._num_losses > self._config.workers.max_losses:
            raise PeerLost(
                f"worker {worker} is the {self._num_losses}th that was lost ({reason}); "
                "workers.max_losses says how many may be"
            )


def batch_of(config: TrainConfig, step: int, num_samples: int) -> list[int]:
    """Return a step's samples, in order."""
    return step_samples(
        step, num_samples=num_samples, batch=config.optimizer.batch, seed=config.seed
    )


def make_step(
    optimizer: AdamW, total: Vector, num_tokens: int, settings: OptimizerConfig
) -> tuple[float, float]:
    """Take the step that a batch's summed gradient asks for; return the rate and the norm."""
    gradient, norm = clipped(total / np.float32(max(num_tokens, 1)), settings.clip)
    lr = learning_rate(
        optimizer.step,
        num_steps=settings.steps,
        peak=settings.lr,
        warmup=settings.warmup,
        schedule=settings.schedule,
    )
    optimizer.update(
        gradient,
        lr=lr,
        beta1=settings.beta1,
        beta2=settings.beta2,
        weight_decay=settings.weight_decay,
    )
    return lr, norm
