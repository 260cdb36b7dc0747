"""Training in rounds, by a coded scheme: tolerated stragglers are not waited for.

Round r starts job r; with schemes that decode T rounds late, T + 1 models train in turn so that no
worker idles for lack of parameters (Krishnan, Ebrahimi and Khisti, ICLR 2023, section 2). Workers
return one weighted sum for each task, not a gradient for each chunk. A late worker does not get the
rest of its tasks: it stops cooperatively, between microbatches.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from parallel.training.adamw import AdamW
from parallel.training.gradient_coding.schemes import Scheme, Task, remembered
from parallel.training.gradient_coding.straggler_patience import StragglerPatience
from runtime.clock import Clock
from runtime.errors import PacelineError
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.coded_jobs import CodedJobs
from runtime.training.dispatcher import Dispatcher
from runtime.training.job.job_config import TrainConfig
from runtime.training.training_step import SampleSizes, StepReport
from runtime.training.worker_pool import TrainingPool


class WorkersAwayError(PacelineError):
    """A round cannot end without workers that do not return: training needs another plan."""

    def __init__(self, workers: Sequence[int]) -> None:
        super().__init__(f"workers {list(workers)} are away")
        self.workers = tuple(workers)


class RoundCoordinator:
    """Runs one round after the other; each returns the steps that it completed."""

    def __init__(
        self,
        config: TrainConfig,
        scheme: Scheme,
        optimizers: Sequence[AdamW],
        pool: TrainingPool,
        sizes: SampleSizes,
        clock: Clock,
        busy_since: Mapping[int, float] | None = None,
    ) -> None:
        """Train `scheme.delay` + 1 models in turn.

        Args:
            config: the job's; trial k has its seed plus k.
            scheme: assigns the work and decodes the results.
            optimizers: each trial's; they continue from their steps, those that are behind first.
            pool: as many workers as the scheme has.
            sizes: of all samples.
            clock: times rounds and workers.
            busy_since: workers that are busy for an earlier plan; their results are dropped.
        """
        assert len(optimizers) == scheme.delay + 1
        assert pool.size == scheme.num_workers
        self._scheme = scheme
        self._pool = pool
        self._clock = clock
        self._jobs = CodedJobs(config, scheme, optimizers, pool, sizes)
        self._dispatcher: Dispatcher[ChunkWork, ChunkResult] = Dispatcher(
            pool,
            clock,
            lost_after_s=config.workers.lost_after_s,
            max_losses=config.workers.max_losses,
            busy_since=busy_since,
        )
        self._patience = StragglerPatience(config.workers.patience)
        self._away = AwayWorkers(pool, config.workers.empty_after_s)
        self._history = np.zeros((0, scheme.num_workers), dtype=np.bool_)
        self._round = 0
        self.times_s: list[list[float]] = []
        """When each worker finished, in rounds that waited for all of them."""

    @property
    def is_done(self) -> bool:
        """Whether every trial has made its steps."""
        return self._jobs.is_done

    @property
    def busy_since(self) -> dict[int, float]:
        """The busy workers, and since when."""
        return self._dispatcher.busy_since

    @property
    def num_losses(self) -> int:
        """Workers that were lost so far."""
        return self._dispatcher.num_losses

    def close(self) -> None:
        """Drop the jobs that are not decoded."""
        self._jobs.close()

    def round(self) -> list[StepReport]:
        """Run the next round and return the steps that it completed.

        Raises:
            PeerLost: more workers were lost than the configuration allows.
            WorkersAwayError: the round waits for workers that do not return.
        """
        start_s = self._clock.now_s()
        num_lost = -self.num_losses
        self._jobs.open(self._round)
        tasks = self._jobs.assign(self._round)
        source = CodedRound(
            self._round, tasks, self._jobs, self._scheme, self._patience, self._away,
            history=self._history, start_s=start_s,
        )  # fmt: skip
        num_started = self._dispatcher.run(source)
        num_lost += self.num_losses
        if len(source.finished_s) == self._scheme.num_workers:
            self.times_s.append([source.finished_s[w] for w in range(len(source.finished_s))])
        self._history = remembered(self._scheme, np.vstack([self._history, source.late]))
        self._round += 1
        reports = []
        for report in self._jobs.steps(self._round):
            reports.append(
                replace(
                    report,
                    seconds=self._clock.now_s() - start_s,
                    num_stragglers=int(source.late.sum()),
                    num_repeated=max(0, num_started - source.num_wanted),
                    num_lost=num_lost,
                    waited=source.waited,
                )
            )
            num_lost = 0  # counted once
        return reports


class AwayWorkers:
    """Tells workers that are gone for good from those whose replacement is loading."""

    def __init__(self, pool: TrainingPool, empty_after_s: float) -> None:
        self._pool = pool
        self._empty_after_s = empty_after_s
        self._since_s: dict[int, float] = {}

    def check(self, workers: set[int], now_s: float) -> None:
        """Raise WorkersAwayError if one of these workers has not been ready for too long."""
        away = {worker for worker in workers if not self._pool.is_ready(worker)}
        self._since_s = {worker: self._since_s.get(worker, now_s) for worker in away}
        limit_s = self._empty_after_s
        gone = [worker for worker, since_s in self._since_s.items() if now_s - since_s > limit_s]
        if gone:
            raise WorkersAwayError(gone)


class CodedRound:
    """One round as a source of work: complete once the missing workers may be late."""

    def __init__(
        self,
        number: int,
        tasks: Mapping[int, Sequence[Task]],
        jobs: CodedJobs,
        scheme: Scheme,
        patience: StragglerPatience,
        away: AwayWorkers,
        *,
        history: NDArray[np.bool_],
        start_s: float,
    ) -> None:
        self.finished_s: dict[int, float] = {}
        """When each worker finished, since the start of the round."""
        self.late = np.zeros(scheme.num_workers, dtype=np.bool_)
        """The workers that the round did not wait for."""
        self.waited = False
        """Whether the round had to wait for a straggler."""
        self._number = number
        self._tasks = tasks
        self._jobs = jobs
        self._scheme = scheme
        self._patience = patience
        self._away = away
        self._history = history
        self._start_s = start_s
        self._working = {worker for worker, mine in tasks.items() if mine}
        self._pending = {worker: jobs.microbatches(mine) for worker, mine in tasks.items()}
        self.num_wanted = sum(len(works) for works in self._pending.values())
        """Microbatches that the round needs if every worker stays."""

    def wait_s(self, now_s: float, idle_s: float) -> float | None:  # noqa: ARG002  (see AwayWorkers)
        """Return how long until workers are late; None once the round may end."""
        missing = self._working - set(self.finished_s)
        self.late = np.array([w in missing for w in range(self._scheme.num_workers)])
        passed_s = now_s - self._start_s
        deadline_s = self._patience.deadline_s(self.finished_s.values(), len(self._working))
        is_overdue = passed_s >= deadline_s
        if not missing or (is_overdue and self._is_tolerated()):
            self._patience.end_round(self.finished_s.values(), len(self._working))
            return None
        self.waited = self.waited or is_overdue
        self._away.check(missing, now_s)
        return math.inf if is_overdue else deadline_s - passed_s

    def next(self, worker: int, now_s: float) -> ChunkWork | None:  # noqa: ARG002  (a round's order is fixed)
        """Return a worker's next microbatch of this round."""
        pending = self._pending.get(worker)
        return pending.popleft() if pending else None

    def take(self, worker: int, result: ChunkResult, now_s: float) -> None:
        """Record a result, and whether it was the worker's last one of this round."""
        self._jobs.take(result, self._number)
        is_missing = worker in self._working and worker not in self.finished_s
        if is_missing and self._jobs.has_all(self._tasks[worker]):
            self.finished_s[worker] = now_s - self._start_s

    def lost(self, worker: int, now_s: float) -> None:  # noqa: ARG002  (a round's order is fixed)
        """Give the replacement what the lost worker has not returned."""
        self._pending[worker] = self._jobs.microbatches(self._jobs.missing(self._tasks[worker]))

    def _is_tolerated(self) -> bool:
        return self._scheme.conforms(np.vstack([self._history, self.late]))
