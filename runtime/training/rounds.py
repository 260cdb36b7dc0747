"""Training in rounds, by a coded scheme: tolerated stragglers are not waited for.

A job is one gradient of one model at fixed parameters; round r starts job r. Where a scheme decodes
a job only T rounds later, T + 1 models (trials) train in turn, so that no worker is ever idle for
want of parameters (Krishnan, Ebrahimi and Khisti, ICLR 2023, section 2). Workers send one weighted
sum a task, not a gradient a chunk. Late workers are not given the rest of their tasks: the abort is
cooperative, between microbatches.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from parallel.training.adamw import AdamW
from parallel.training.gradient_coding.schemes import Key, Scheme, Task, remembered
from parallel.training.gradient_coding.straggler_patience import StragglerPatience
from parallel.training.sampler import dropout_seed, split_evenly
from runtime.clock import Clock
from runtime.errors import PacelineError, PeerLost
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.coordinator import Pool, StepReport, WorkerLost, batch_of, make_step
from runtime.training.job.job_config import TrainConfig

_LOG = logging.getLogger("paceline.train")
_WAIT_S = 1.0
_SHORTEST_WAIT_S = 0.001


class WorkersAwayError(PacelineError):
    """A round cannot end without workers that are not coming back: there has to be another plan."""

    def __init__(self, workers: Sequence[int]) -> None:
        super().__init__(f"workers {list(workers)} are away")
        self.workers = tuple(workers)


class RoundCoordinator:
    """Makes one round after the other; each ends with the steps that it brought to an end."""

    def __init__(
        self,
        config: TrainConfig,
        scheme: Scheme,
        optimizers: Sequence[AdamW],
        pool: Pool,
        num_learnt: Sequence[int],
        clock: Clock,
        busy_since: Mapping[int, float] | None = None,
    ) -> None:
        """Train `scheme.delay` + 1 models in turn.

        Args:
            config: the job's; trial k has its seed plus k.
            scheme: who does what.
            optimizers: each trial's; they go on from their steps, those that are behind first.
            pool: as many workers as the scheme has.
            num_learnt: learnt tokens of each sample.
            clock: says who is late.
            busy_since: workers that an earlier plan left at work; what they bring is dropped.
        """
        assert len(optimizers) == scheme.delay + 1
        assert pool.size == scheme.num_workers
        self._config = config
        self._scheme = scheme
        self._optimizers = optimizers
        self._pool = pool
        self._num_learnt = num_learnt
        self._clock = clock
        # What is not decoded when a run is cut begins anew: gradients do not depend on the rounds.
        self._first_steps = [optimizer.step for optimizer in optimizers]
        self._base = min(self._first_steps) * len(optimizers)
        self._num_jobs = config.optimizer.steps * len(optimizers) - self._base
        self._round = 0
        self._next = 0
        self._arrivals: dict[Key, int] = {}
        self._results: dict[Key, ChunkResult] = {}
        self._first_chunk: dict[Key, int] = {}
        """Of each task; copies of one sum begin with the same."""
        self._history = np.zeros((0, scheme.num_workers), dtype=np.bool_)
        self._batches: dict[int, list[tuple[int, ...]]] = {}
        self._busy_since = dict(busy_since or {})
        self._stale = set(self._busy_since)
        self._away_since: dict[int, float] = {}
        self._pending: dict[int, deque[tuple[Task, ChunkWork]]] = {}
        self._num_losses = 0
        self._patience = StragglerPatience(config.workers.patience)
        self.times_s: list[list[float]] = []
        """When each worker had finished, in rounds that waited for all."""

    @property
    def is_done(self) -> bool:
        """Whether every trial has made its steps."""
        return self._next == self._num_jobs

    @property
    def busy_since(self) -> dict[int, float]:
        """When the workers that are at work began."""
        return dict(self._busy_since)

    @property
    def num_losses(self) -> int:
        """Workers that were lost so far."""
        return self._num_losses

    def close(self) -> None:
        """Forget the jobs that are not decoded."""
        for job in self._batches:
            self._pool.retire(self._version(job))
        self._batches = {}

    def round(self) -> list[StepReport]:
        """Make the next round and return the steps that it brought to an end.

        Raises:
            PeerLost: more workers were lost than the configuration allows.
            WorkersAwayError: the round waits for workers that do not come back.
        """
        start_s = self._clock.now_s()
        losses_before = self._num_losses
        self._open_job()
        late, waited, num_started, num_wanted = self._work(start_s)
        self._history = remembered(self._scheme, np.vstack([self._history, late]))
        self._round += 1
        reports = []
        while self._next < self._num_jobs and self._next < self._round:
            if self._was_made(self._next):
                self._next += 1
                continue
            report = self._decode(self._next)
            if report is None:
                break
            self._next += 1
            reports.append(
                replace(
                    report,
                    seconds=self._clock.now_s() - start_s,
                    num_stragglers=int(late.sum()),
                    num_repeated=max(0, num_started - num_wanted),
                    num_lost=self._num_losses - losses_before,
                    waited=waited,
                )
            )
            losses_before = self._num_losses
        if self._next <= self._round - 1 - self._scheme.delay and not self.is_done:
            raise PacelineError(f"{self._scheme.name} lost job {self._next}: this is a defect")
        return reports

    # --- jobs ---------------------------------------------------------------------------------

    def _trial(self, job: int) -> int:
        return (self._base + job) % len(self._optimizers)

    def _version(self, job: int) -> int:
        """Return what decides a job's parameters: a trial and its step."""
        return self._base + job

    def _was_made(self, job: int) -> bool:
        """Tell whether a trial that is ahead of the others made a job's step in an earlier run."""
        step = self._version(job) // len(self._optimizers)
        return step < self._first_steps[self._trial(job)]

    def _open_job(self) -> None:
        """Publish the parameters of the job that this round starts, and share its batch out."""
        job = self._round
        if job >= self._num_jobs or self._was_made(job):
            return
        optimizer = self._optimizers[self._trial(job)]
        config = replace(self._config, seed=self._config.seed + self._trial(job))
        ids = batch_of(config, optimizer.step, len(self._num_learnt))
        bounds = accumulate(self._scheme.chunk_sizes, initial=Fraction(0))
        places = pairwise(math.floor(bound * len(ids)) for bound in bounds)
        self._batches[job] = [tuple(ids[first:stop]) for first, stop in places]
        self._pool.publish(self._version(job), optimizer.parameters)

    def _decode(self, job: int) -> StepReport | None:
        """Make the step of a job whose results suffice; None while they do not."""
        weights = self._scheme.decode(job, self._arrivals)
        if weights is None:
            return None
        optimizer = self._optimizers[self._trial(job)]
        total, loss = np.zeros_like(optimizer.parameters), 0.0
        # Copies of one sum begin with the same chunk: whichever came, the order is the same.
        for key in sorted(weights, key=lambda key: (self._first_chunk[key], key)):
            weight, result = weights[key], self._results[key]
            assert result.gradient is not None
            total += result.gradient if weight == 1 else np.float32(weight) * result.gradient
            loss += weight * result.loss_sum
        num_tokens = sum(self._num_learnt[i] for chunk in self._batches.pop(job) for i in chunk)
        self._pool.retire(self._version(job))
        self._results = {key: r for key, r in self._results.items() if key[0] != job}
        self._first_chunk = {k: first for k, first in self._first_chunk.items() if k[0] > job}
        self._arrivals = {
            key: r
            for key, r in self._arrivals.items()
            if key[0] >= self._round - self._scheme.delay - 1
        }
        lr, norm = make_step(optimizer, total, num_tokens, self._config.optimizer)
        return StepReport(
            step=optimizer.step,
            loss=loss / max(num_tokens, 1),
            lr=lr,
            gradient_norm=norm,
            num_tokens=num_tokens,
            seconds=0.0,
            num_repeated=0,
            num_stragglers=0,
            num_lost=0,
            trial=self._trial(job),
        )

    # --- a round --------------------------------------------------------------------------------

    def _work(self, start_s: float) -> tuple[NDArray[np.bool_], bool, int, int]:
        """Let the workers work until who is left may be late.

        Returns:
            Who is late, whether that had to be waited for, chunks started, chunks wanted.
        """
        tasks = self._assign()
        self._pending = {worker: self._works(mine) for worker, mine in tasks.items()}
        working = {worker for worker, mine in tasks.items() if mine}
        num_wanted = sum(len(works) for works in self._pending.values())
        finished: dict[int, float] = {}
        waited = False
        num_started = self._start_idle()
        while True:
            missing = working - set(finished)
            late = np.array([w in missing for w in range(self._scheme.num_workers)])
            now_s = self._clock.now_s() - start_s
            deadline_s = self._patience.deadline_s(finished.values(), len(working))
            tolerated = not missing or (
                now_s >= deadline_s and self._scheme.conforms(np.vstack([self._history, late]))
            )
            if tolerated:
                self._patience.end_round(finished.values(), len(working))
                if len(finished) == self._scheme.num_workers:
                    self.times_s.append([finished[w] for w in range(len(finished))])
                return late, waited, num_started, num_wanted
            waited = waited or now_s >= deadline_s
            self._check_away(missing)
            left_s = deadline_s - now_s if now_s < deadline_s else _WAIT_S
            for event in self._pool.wait(min(_WAIT_S, max(left_s, _SHORTEST_WAIT_S))):
                if isinstance(event, WorkerLost):
                    self._lose(event.worker, event.reason, tasks)
                    continue
                self._busy_since.pop(event.worker, None)
                if event.worker in self._stale:
                    self._stale.discard(event.worker)
                    continue
                self._take(event.result)
                if event.worker in missing and self._has_finished(tasks[event.worker]):
                    finished[event.worker] = self._clock.now_s() - start_s
            self._give_up_on_silent(tasks)
            num_started += self._start_idle()

    def _assign(self) -> dict[int, list[Task]]:
        """Return what each worker has to do in this round."""
        plan = self._scheme.assign(self._round, self._num_jobs, self._arrivals)
        for task in (task for mine in plan for task in mine):
            self._first_chunk[task.key] = task.chunks[0][0]
            if self._was_made(task.job):
                self._arrivals.setdefault(task.key, self._round)
        return {
            worker: [task for task in mine if task.job >= self._next and self._is_wanted(task)]
            for worker, mine in enumerate(plan)
        }

    def _check_away(self, missing: set[int]) -> None:
        """Raise WorkersAwayError if one that the round may not end without does not come back."""
        now_s = self._clock.now_s()
        away = {worker for worker in missing if not self._pool.is_ready(worker)}
        self._away_since = {worker: self._away_since.get(worker, now_s) for worker in away}
        limit_s = self._config.workers.empty_after_s
        gone = [worker for worker, since_s in self._away_since.items() if now_s - since_s > limit_s]
        if gone:
            raise WorkersAwayError(gone)

    def _is_wanted(self, task: Task) -> bool:
        return task.key not in self._results and not self._was_made(task.job)

    def _has_finished(self, tasks: Sequence[Task]) -> bool:
        return all(task.key in self._results or task.job < self._next for task in tasks)

    def _take(self, result: ChunkResult) -> None:
        """Take a sum in; a chunk of one that is not whole, or a second copy, is nothing yet."""
        key = result.key
        if result.gradient is not None and key[0] >= self._next and key not in self._results:
            self._results[key] = result
            self._arrivals.setdefault(key, self._round)

    def _works(self, tasks: Sequence[Task]) -> deque[tuple[Task, ChunkWork]]:
        """Return tasks as the microbatches that a worker is given one after the other."""
        works: deque[tuple[Task, ChunkWork]] = deque()
        for task in tasks:
            trial = self._trial(task.job)
            step = self._version(task.job) // len(self._optimizers)
            pieces = [
                (samples, coefficient, dropout_seed(self._config.seed + trial, step, chunk, piece))
                for chunk, coefficient in task.chunks
                for piece, samples in enumerate(self._pieces(self._batches[task.job][chunk]))
            ]
            for index, (samples, coefficient, seed) in enumerate(pieces):
                work = ChunkWork(
                    version=self._version(task.job),
                    key=task.key,
                    samples=tuple(samples),
                    coefficient=coefficient,
                    first=index == 0,
                    last=index == len(pieces) - 1,
                    dropout_seed=seed,
                )
                works.append((task, work))
        return works

    def _pieces(self, samples: tuple[int, ...]) -> list[list[int]]:
        return split_evenly(list(samples), -(-len(samples) // self._config.optimizer.microbatch))

    def _start_idle(self) -> int:
        num_started = 0
        for worker, works in self._pending.items():
            if works and worker not in self._busy_since and self._pool.is_ready(worker):
                _, work = works.popleft()
                self._pool.start(worker, work)
                self._busy_since[worker] = self._clock.now_s()
                num_started += 1
        return num_started

    def _give_up_on_silent(self, tasks: dict[int, list[Task]]) -> None:
        limit_s = self._config.workers.lost_after_s
        for worker, since_s in list(self._busy_since.items()):
            if self._clock.now_s() - since_s > limit_s:
                self._pool.replace(worker)
                self._lose(worker, f"silent for {limit_s:g} s", tasks)

    def _lose(self, worker: int, reason: str, tasks: dict[int, list[Task]]) -> None:
        """Let the worker that comes in the place of a lost one do what that one still owed."""
        _LOG.warning("worker %d lost, another takes its place: %s", worker, reason)
        self._busy_since.pop(worker, None)
        self._stale.discard(worker)
        owed = [task for task in tasks[worker] if task.key not in self._results]
        self._pending[worker] = self._works([task for task in owed if task.job >= self._next])
        self._num_losses += 1
        if self._num_losses > self._config.workers.max_losses:
            raise PeerLost(
                f"worker {worker} is the {self._num_losses}th that was lost ({reason}); "
                "workers.max_losses says how many may be"
            )
