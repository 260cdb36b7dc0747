"""The jobs of a coded run: their batches, tasks and results, from the first round to the decoding.

A job is one gradient of one model at fixed parameters. Where a scheme decodes a job only T rounds
later, T + 1 models (trials) train in turn: job j belongs to trial j mod (T + 1).
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np

from parallel.training.adamw import AdamW
from parallel.training.gradient_coding.schemes import Key, Scheme, Task
from parallel.training.sampler import dropout_seed
from runtime.errors import PacelineError
from runtime.training.chunk_work import ChunkResult, ChunkWork
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


class CodedJobs:
    """Opens jobs, collects the results of their tasks, and decodes them into steps."""

    def __init__(
        self,
        config: TrainConfig,
        scheme: Scheme,
        optimizers: Sequence[AdamW],
        pool: TrainingPool,
        sizes: SampleSizes,
    ) -> None:
        self._config = config
        self._scheme = scheme
        self._optimizers = optimizers
        self._pool = pool
        self._sizes = sizes
        # Undecoded jobs of a run that was cut restart: gradients do not depend on the rounds.
        self._first_steps = [optimizer.step for optimizer in optimizers]
        self._base = min(self._first_steps) * len(optimizers)
        self._num_jobs = config.optimizer.steps * len(optimizers) - self._base
        self._next = 0
        self._arrivals: dict[Key, int] = {}
        self._results: dict[Key, ChunkResult] = {}
        self._first_chunk: dict[Key, int] = {}
        """Of each task; copies of one sum start with the same chunk."""
        self._batches: dict[int, list[tuple[int, ...]]] = {}

    @property
    def is_done(self) -> bool:
        """Whether every trial has made its steps."""
        return self._next == self._num_jobs

    def close(self) -> None:
        """Drop the jobs that are not decoded."""
        for job in self._batches:
            self._pool.retire(self._version(job))
        self._batches = {}

    def open(self, job: int) -> None:
        """Publish the parameters of a job, and cut its batch into chunks."""
        if job >= self._num_jobs or self._was_made(job):
            return
        optimizer = self._optimizers[self._trial(job)]
        config = replace(self._config, seed=self._config.seed + self._trial(job))
        ids = batch_of(config, optimizer.step, self._sizes)
        bounds = accumulate(self._scheme.chunk_sizes, initial=Fraction(0))
        cuts = pairwise(math.floor(bound * len(ids)) for bound in bounds)
        self._batches[job] = [tuple(ids[first:stop]) for first, stop in cuts]
        self._pool.publish(self._version(job), optimizer.parameters)

    def assign(self, round_number: int) -> dict[int, list[Task]]:
        """Return what each worker has to do in a round."""
        plan = self._scheme.assign(round_number, self._num_jobs, self._arrivals)
        for task in (task for tasks in plan for task in tasks):
            self._first_chunk[task.key] = task.chunks[0][0]
            if self._was_made(task.job):
                self._arrivals.setdefault(task.key, round_number)
        return {
            worker: [task for task in tasks if task.job >= self._next and self._is_wanted(task)]
            for worker, tasks in enumerate(plan)
        }

    def take(self, result: ChunkResult, round_number: int) -> None:
        """Record a whole sum; partial sums and second copies are ignored."""
        key = result.key
        if result.gradient is not None and key[0] >= self._next and key not in self._results:
            self._results[key] = result
            self._arrivals.setdefault(key, round_number)

    def has_all(self, tasks: Sequence[Task]) -> bool:
        """Return whether no result of the tasks is missing."""
        return all(task.key in self._results or task.job < self._next for task in tasks)

    def missing(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks whose results are still missing."""
        return [task for task in tasks if not self.has_all([task])]

    def microbatches(self, tasks: Sequence[Task]) -> deque[ChunkWork]:
        """Return tasks as the microbatches that a worker computes one after the other."""
        works: deque[ChunkWork] = deque()
        for task in tasks:
            trial = self._trial(task.job)
            step = self._version(task.job) // len(self._optimizers)
            pieces = [
                (samples, coefficient, dropout_seed(self._config.seed + trial, step, chunk, piece))
                for chunk, coefficient in task.chunks
                for piece, samples in enumerate(self._pieces(self._batches[task.job][chunk]))
            ]
            for index, (samples, coefficient, seed) in enumerate(pieces):
                works.append(
                    ChunkWork(
                        version=self._version(task.job),
                        key=task.key,
                        samples=tuple(samples),
                        coefficient=coefficient,
                        first=index == 0,
                        last=index == len(pieces) - 1,
                        dropout_seed=seed,
                    )
                )
        return works

    def steps(self, num_rounds: int) -> Iterator[StepReport]:
        """Yield the steps of the jobs that decode after so many rounds; times are left at 0.

        Raises:
            PacelineError: a job did not decode in time, which no scheme may let happen.
        """
        while self._next < self._num_jobs and self._next < num_rounds:
            if self._was_made(self._next):
                self._next += 1
                continue
            report = self._decode(self._next, num_rounds)
            if report is None:
                break
            self._next += 1
            yield report
        if self._next <= num_rounds - 1 - self._scheme.delay and not self.is_done:
            raise PacelineError(f"{self._scheme.name} lost job {self._next}: this is a defect")

    def _decode(self, job: int, num_rounds: int) -> StepReport | None:
        """Make the step of a job whose results suffice; return None while they do not."""
        weights = self._scheme.decode(job, self._arrivals)
        if weights is None:
            return None
        optimizer = self._optimizers[self._trial(job)]
        total, loss = np.zeros_like(optimizer.parameters), 0.0
        not_finite = []
        # Copies of one sum start with the same chunk, so the order is the same for every copy.
        for key in sorted(weights, key=lambda key: (self._first_chunk[key], key)):
            weight, result = weights[key], self._results[key]
            assert result.gradient is not None
            if not is_finite_result(result):
                not_finite.append(f"the chunks from {self._first_chunk[key]}, by worker {key[1]},")
            with np.errstate(over="ignore", invalid="ignore"):
                total += result.gradient if weight == 1 else np.float32(weight) * result.gradient
            loss += weight * result.loss_sum
        ids = [index for chunk in self._batches.pop(job) for index in chunk]
        num_tokens = self._sizes.loss_tokens_of(ids)
        self._forget(job, num_rounds)
        batch = BatchGradient(
            total=total,
            loss_sum=loss,
            num_losses=self._sizes.losses_of(ids),
            not_finite=not_finite,
        )
        update = make_step(optimizer, batch, self._config)
        return StepReport(
            step=optimizer.step,
            loss=update.loss,
            lr=update.lr,
            gradient_norm=update.gradient_norm,
            skipped=update.skipped,
            num_tokens=num_tokens,
            seconds=0.0,
            num_repeated=0,
            num_stragglers=0,
            num_lost=0,
            trial=self._trial(job),
        )

    def _forget(self, job: int, num_rounds: int) -> None:
        """Drop what belongs to a decoded job, and arrivals that no scheme looks at any more."""
        self._pool.retire(self._version(job))
        self._results = {key: r for key, r in self._results.items() if key[0] != job}
        self._first_chunk = {k: first for k, first in self._first_chunk.items() if k[0] > job}
        oldest = num_rounds - self._scheme.delay - 1
        self._arrivals = {key: r for key, r in self._arrivals.items() if key[0] >= oldest}

    def _pieces(self, samples: tuple[int, ...]) -> list[list[int]]:
        num_parts = -(-len(samples) // self._config.optimizer.microbatch)
        return microbatches_of(self._config, samples, num_parts, self._sizes)

    def _is_wanted(self, task: Task) -> bool:
        return task.key not in self._results and not self._was_made(task.job)

    def _trial(self, job: int) -> int:
        return (self._base + job) % len(self._optimizers)

    def _version(self, job: int) -> int:
        """Return the number of a job's parameters: it stands for a trial and its step."""
        return self._base + job

    def _was_made(self, job: int) -> bool:
        """Return whether an earlier run made a job's step: its trial was ahead of the others."""
        step = self._version(job) // len(self._optimizers)
        return step < self._first_steps[self._trial(job)]
