"""Training from the first step to the last: the scheme, and the workers that it runs on.

Workers that die or hang are replaced. When a replacement does not arrive for long, or one more
worker is ready, the round scheme is rebuilt for the workers that are ready, between two jobs.
Gradients do not depend on the rounds, so only the jobs in flight are lost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from parallel.training.adamw import AdamW, Vector
from parallel.training.gradient_coding.names import round_scheme
from parallel.training.gradient_coding.schemes import smallest_batch
from runtime.clock import Clock
from runtime.errors import PeerLost
from runtime.training.choose import Choice, choose_scheme
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.coordinator import QueueCoordinator
from runtime.training.dispatcher import NO_WORKER_S
from runtime.training.job.job_config import AUTO, TrainConfig
from runtime.training.rounds import RoundCoordinator, WorkersAwayError
from runtime.training.training_step import SampleSizes, StepReport
from runtime.training.worker_pool import Arrived, TrainingPool, WorkerLost

Note = Callable[[str], None]
_POLL_S = 0.5


def training_steps(
    config: TrainConfig,
    optimizers: Sequence[AdamW],
    pool: TrainingPool,
    sizes: SampleSizes,
    clock: Clock,
    *,
    choice: Choice | None = None,
    keep: Callable[[Choice], None] = lambda _: None,
    note: Note = lambda _: None,
) -> Iterator[StepReport]:
    """Yield the steps as they are made, with the configured or the chosen scheme.

    Args:
        config: the job's.
        optimizers: one for each model; they continue from their steps.
        pool: the workers.
        sizes: of all samples.
        clock: times the workers.
        choice: what "auto" chose when the job first ran.
        keep: called with the choice of "auto".
        note: called with messages for the user.

    Raises:
        PeerLost: too many workers were lost, or all of them.
    """
    if config.workers.scheme == AUTO:
        if choice is None:
            profiling = replace(config, workers=replace(config.workers, scheme="uncoded"))
            times_s: list[Sequence[float]] = []
            arguments = (profiling, optimizers, pool, sizes, clock)
            yield from _in_rounds(*arguments, note=note, profile=times_s)
            if optimizers[0].step == config.optimizer.steps:
                return
            chunks = -(-config.optimizer.batch // config.optimizer.microbatch)
            choice = choose_scheme(
                times_s,
                num_chunks=chunks,
                patience=config.workers.patience,
                max_workers=pool.size,
            )
            keep(choice)
        note(f"scheme {choice.scheme}: {choice.why}")
        workers = replace(config.workers, scheme=choice.scheme, group=choice.group or 1)
        config = replace(config, workers=workers)
    if config.round_scheme is not None:
        yield from _in_rounds(config, optimizers, pool, sizes, clock, note=note)
        return
    coordinator = QueueCoordinator(config, optimizers[0], pool, sizes, clock)
    while optimizers[0].step < config.optimizer.steps:
        yield coordinator.step()


def _in_rounds(
    config: TrainConfig,
    optimizers: Sequence[AdamW],
    pool: TrainingPool,
    sizes: SampleSizes,
    clock: Clock,
    *,
    note: Note,
    profile: list[Sequence[float]] | None = None,
) -> Iterator[StepReport]:
    """Yield the steps of a scheme in rounds; with `profile`, until it has enough rounds."""
    planner = _WorkerPlan(config, pool, clock)
    slots = planner.plan(())
    busy: dict[int, float] = {}
    while True:
        members = Members(pool, slots, busy)
        plan = replace(config, workers=replace(config.workers, count=len(slots), min=None))
        scheme = plan.round_scheme
        assert scheme is not None
        at_work = {slots.index(slot): since for slot, since in busy.items() if slot in slots}
        rounds = RoundCoordinator(plan, scheme, optimizers, members, sizes, clock, at_work)
        wanted = slots
        while not rounds.is_done and wanted == slots:
            try:
                yield from rounds.round()
            except WorkersAwayError as error:
                planner.drop([slots[worker] for worker in error.workers])
            if profile is not None and len(rounds.times_s) + len(profile) >= plan.workers.profile:
                profile += rounds.times_s
                rounds.close()
                return
            wanted = planner.plan(slots)
        rounds.close()
        if rounds.is_done:
            return
        if profile is not None:
            profile.clear()  # of other workers
        note(f"from now on {len(wanted)} workers, after {len(slots)}")
        busy = members.others_busy
        busy |= {slots[worker]: since for worker, since in rounds.busy_since.items()}
        left = config.workers.max_losses - rounds.num_losses
        config = replace(config, workers=replace(config.workers, max_losses=left))
        slots = wanted


class Members:
    """Some of a pool's workers, numbered from 0, as a pool of their own."""

    def __init__(self, pool: TrainingPool, slots: Sequence[int], busy: Mapping[int, float]) -> None:
        """Use the workers in `slots`; `busy` are all workers still busy for an earlier plan."""
        self._pool = pool
        self._slots = tuple(slots)
        self._number = {slot: number for number, slot in enumerate(slots)}
        self.others_busy = {slot: since for slot, since in busy.items() if slot not in slots}
        """Busy workers outside this pool."""

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self._slots)

    def publish(self, version: int, parameters: Vector) -> None:
        """Publish the parameters of a version."""
        self._pool.publish(version, parameters)

    def retire(self, version: int) -> None:
        """Drop the parameters of a version."""
        self._pool.retire(version)

    def is_ready(self, worker: int) -> bool:
        """Return whether a member has loaded the model."""
        return self._pool.is_ready(self._slots[worker])

    def start(self, worker: int, work: ChunkWork) -> None:
        """Start a chunk on a member."""
        self._pool.start(self._slots[worker], work)

    def wait(self, timeout_s: float) -> list[Arrived[ChunkResult] | WorkerLost]:
        """Return the events of members."""
        found: list[Arrived[ChunkResult] | WorkerLost] = []
        for event in self._pool.wait(timeout_s):
            if event.worker in self._number:
                found.append(replace(event, worker=self._number[event.worker]))
            else:
                self.others_busy.pop(event.worker, None)
        return found

    def replace(self, worker: int) -> None:
        """End a member that hangs, and start another in its place."""
        self._pool.replace(self._slots[worker])


class _WorkerPlan:
    """Chooses the workers of the next rounds."""

    def __init__(self, config: TrainConfig, pool: TrainingPool, clock: Clock) -> None:
        self._config = config
        self._pool = pool
        self._clock = clock
        self._away_since: dict[int, float] = {}
        self._dropped: set[int] = set()

    def drop(self, slots: Sequence[int]) -> None:
        """Leave workers out until they are ready again."""
        self._dropped.update(slots)

    def plan(self, present: tuple[int, ...]) -> tuple[int, ...]:
        """Return the workers to use: as many as the scheme can use, current members first.

        A lost member counts for a while, because its replacement is starting.

        Raises:
            PeerLost: no worker is ready for too long, or there are too few for the scheme.
        """
        deadline_s = self._clock.now_s() + NO_WORKER_S
        while True:
            available = self._available(present)
            if available:
                return tuple(sorted(available[: self._max_usable(len(available))]))
            if self._clock.now_s() > deadline_s:
                raise PeerLost(
                    f"no worker was ready for {NO_WORKER_S:g} s: does the cluster have room for "
                    "any?"
                )
            self._pool.wait(_POLL_S)

    def _available(self, present: tuple[int, ...]) -> list[int]:
        now_s = self._clock.now_s()
        ready = {slot for slot in range(self._pool.size) if self._pool.is_ready(slot)}
        away = set(range(self._pool.size)) - ready
        self._dropped &= away
        self._away_since = {slot: self._away_since.get(slot, now_s) for slot in away}
        limit_s = self._config.workers.empty_after_s
        coming = {
            slot
            for slot, since_s in self._away_since.items()
            if slot in present and slot not in self._dropped and now_s - since_s <= limit_s
        }
        return sorted(ready | coming, key=lambda slot: (slot not in present, slot))

    def _max_usable(self, num: int) -> int:
        """Return the largest number of workers, up to `num`, that the scheme can use."""
        name, delay = self._config.workers.scheme, self._config.num_trials - 1
        for count in range(num, 0, -1):
            try:
                scheme = round_scheme(name, count)
            except ValueError:
                continue
            assert scheme is not None
            if scheme.delay == delay and smallest_batch(scheme) <= self._config.optimizer.batch:
                return count
        raise PeerLost(f"`workers.scheme` {name} cannot work with the {num} workers that are left")
