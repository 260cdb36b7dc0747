"""Training with a queue of chunks: hands them out, adds their gradients, makes the step.

Workers may be slow, hang, die or answer late. A step takes each chunk once and adds the chunks in
their order, so its result depends neither on the worker that computed a chunk nor on the time. A
chunk is added as soon as all earlier ones are; the schedule bounds how many wait for that.
"""

from collections.abc import Sequence

import numpy as np

from parallel.training.adamw import AdamW
from parallel.training.gradient_coding.queue_schedules import ChunkTimes, QueueSchedule
from parallel.training.sampler import dropout_seed
from runtime.clock import Clock
from runtime.errors import PeerLost
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.dispatcher import NO_WORKER_S, Dispatcher
from runtime.training.job.job_config import TrainConfig
from runtime.training.training_step import (
    BatchGradient,
    SampleSizes,
    StepReport,
    batch_of,
    is_finite_result,
    make_step,
    microbatches_of,
)
from runtime.training.worker_pool import TrainingPool


class QueueCoordinator:
    """Makes steps whose chunks are handed out one at a time."""

    def __init__(
        self,
        config: TrainConfig,
        optimizer: AdamW,
        pool: TrainingPool,
        sizes: SampleSizes,
        clock: Clock,
    ) -> None:
        """Train with a queue of chunks.

        Args:
            config: the job's.
            optimizer: continues from its step.
            pool: the workers.
            sizes: of all samples.
            clock: times steps and workers.
        """
        self.optimizer = optimizer
        self._config = config
        self._pool = pool
        self._sizes = sizes
        self._clock = clock
        self._dispatcher: Dispatcher[ChunkWork, ChunkResult] = Dispatcher(
            pool,
            clock,
            lost_after_s=config.workers.lost_after_s,
            max_losses=config.workers.max_losses,
        )
        self._times = ChunkTimes()

    def step(self) -> StepReport:
        """Make the next step.

        Raises:
            PeerLost: more workers were lost than the configuration allows.
        """
        start_s = self._clock.now_s()
        number = self.optimizer.step
        ids = batch_of(self._config, number, self._sizes)
        chunks = microbatches_of(self._config, ids, self._config.num_chunks, self._sizes)
        losses_before = self._dispatcher.num_losses
        schedule = self._config.queue_schedule(self._pool.size, self._times)
        sums = OrderedSums(len(self.optimizer.parameters))
        source = QueuedStep(number, chunks, schedule, sums, seed=self._config.seed)
        self._pool.publish(number, self.optimizer.parameters)
        num_started = self._dispatcher.run(source)
        self._pool.retire(number)
        num_tokens = self._sizes.loss_tokens_of(ids)
        batch = source.sums.gradient(self._sizes.losses_of(ids))
        update = make_step(self.optimizer, batch, self._config)
        return StepReport(
            step=self.optimizer.step,
            loss=update.loss,
            lr=update.lr,
            gradient_norm=update.gradient_norm,
            skipped=update.skipped,
            num_tokens=num_tokens,
            seconds=self._clock.now_s() - start_s,
            num_repeated=num_started - len(chunks),
            num_stragglers=len(self._dispatcher.busy_since.keys() - source.copying),
            num_lost=self._dispatcher.num_losses - losses_before,
        )


class OrderedSums:
    """Adds the chunks of a step in their order, as they arrive."""

    def __init__(self, size: int) -> None:
        """Start at 0, with vectors of this size."""
        self._total = np.zeros(size, dtype=np.float32)
        self._loss_sum = 0.0
        self._num_added = 0
        self._waiting: dict[int, ChunkResult] = {}
        self._not_finite: list[str] = []
        self.most_waiting = 0
        """The most chunks that have waited for an earlier one at the same time."""

    def add(self, chunk: int, result: ChunkResult) -> None:
        """Take the first result of a chunk."""
        self._waiting[chunk] = result
        while (following := self._waiting.pop(self._num_added, None)) is not None:
            assert following.gradient is not None
            if not is_finite_result(following):
                self._not_finite.append(f"chunk {self._num_added}")
            with np.errstate(over="ignore", invalid="ignore"):
                self._total += following.gradient
            self._loss_sum += following.loss_sum
            self._num_added += 1
        self.most_waiting = max(self.most_waiting, len(self._waiting))

    def gradient(self, num_losses: int) -> BatchGradient:
        """Return the sums over all chunks, of so many losses."""
        assert not self._waiting
        return BatchGradient(
            total=self._total,
            loss_sum=self._loss_sum,
            num_losses=num_losses,
            not_finite=self._not_finite,
        )


class QueuedStep:
    """The chunks of one step as a source of work."""

    def __init__(
        self,
        step: int,
        chunks: Sequence[Sequence[int]],
        schedule: QueueSchedule,
        sums: OrderedSums,
        *,
        seed: int,
    ) -> None:
        self.sums = sums
        """Takes the first result of each chunk."""
        self.copying: set[int] = set()
        """Workers whose last chunk in this step had been started by another worker."""
        self._step = step
        self._chunks = chunks
        self._schedule = schedule
        self._seed = seed
        self._started: set[int] = set()

    def wait_s(self, now_s: float, idle_s: float) -> float | None:
        """Return how long until a chunk becomes overdue; None once every chunk was returned."""
        if self._schedule.is_complete:
            return None
        if idle_s > NO_WORKER_S:
            raise PeerLost(
                f"no worker that may take a chunk of step {self._step} was ready for "
                f"{NO_WORKER_S:g} s: does the cluster have room for any?"
            )
        return self._schedule.next_copy_s(now_s) - now_s

    def next(self, worker: int, now_s: float) -> ChunkWork | None:
        """Return the chunk that the schedule gives a worker."""
        chunk = self._schedule.next(worker, now_s)
        if chunk is None:
            return None
        self.copying.discard(worker)
        if chunk in self._started:
            self.copying.add(worker)
        self._started.add(chunk)
        return ChunkWork(
            version=self._step,
            key=(self._step, chunk, 0),
            samples=tuple(self._chunks[chunk]),
            dropout_seed=dropout_seed(self._seed, self._step, chunk),
        )

    def take(self, worker: int, result: ChunkResult, now_s: float) -> None:
        """Record a chunk; a late one of an earlier step, or a second copy, is ignored."""
        step, chunk, _ = result.key
        if step == self._step and self._schedule.done(chunk, worker, now_s):
            self.sums.add(chunk, result)

    def lost(self, worker: int, now_s: float) -> None:  # noqa: ARG002  (the schedule needs no time)
        """Give the chunks of a lost worker to others."""
        self._schedule.lost(worker)
