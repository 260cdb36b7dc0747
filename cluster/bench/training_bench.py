"""`paceline bench train`: what a step takes by every scheme, beside its ideal, under stragglers.

Real actors, messages and schemes; a sample's computing is a timed wait, so that many workers fit on
few cores.
"""

import json
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.timed_actor import TimedWorkerActor
from cluster.network.ray_session import RaySession
from cluster.options.bench_options import BenchTrainOptions
from cluster.reports.run_report import output_console
from cluster.train.ray_pool import RayPool
from parallel.training.adamw import AdamW
from parallel.training.gradient_coding.queue_schedules import ChunkTimes
from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.training.coordinator import QueueCoordinator
from runtime.training.job.job_config import OptimizerConfig, TrainConfig, WorkersConfig
from runtime.training.rounds import RoundCoordinator
from runtime.training.timed_worker import TimedSpec, start_vector

_IDEALS_LOST, _LEAST_LOST_S = 4.0, 2.0
"""Steps' time, and seconds, after which a silent worker is given up; a straggler of ten times is
not: its microbatch, a quarter of a share, takes two and a half steps' time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeRow:
    """One scheme under one kind of straggler."""

    scheme: str
    factor: float
    """How many times as long a straggler takes; infinite is a hang."""
    seconds: float
    """A step's, in the mean."""
    ratio: float
    """To the ideal: the batch's computing, shared out evenly, and nothing else."""
    p90_ratio: float
    late: float
    """Workers a step that were not waited for, in the mean."""
    lost: int
    """Workers that were given up and replaced."""


def run(options: BenchTrainOptions) -> int:
    """Measure every scheme; return the exit code.

    Raises:
        ConfigError: a scheme is not known, or not for so many workers.
    """
    configs = {name: job_config(options, name) for name in options.schemes}
    kinds = [(factor, name) for factor in options.factors for name in configs]
    logging.getLogger("paceline.train").setLevel(logging.ERROR)  # who is lost is counted
    rows = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        RaySession(options.ray_address, num_actors=options.workers),
        Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("", total=len(kinds))
        for factor, name in kinds:
            progress.update(task, description=f"{name}, {_kind(factor)}")
            rows.append(measure_scheme(options, configs[name], name, factor))
            progress.advance(task)
            if options.json:  # at once, so that a run that is cut was not for nothing
                written = None if math.isinf(factor) else factor  # JSON has no infinity
                print(json.dumps(asdict(rows[-1]) | {"factor": written}), flush=True)
    if not options.json:
        output_console().print(_table(rows, options))
    return 0


def job_config(options: BenchTrainOptions, name: str) -> TrainConfig:
    """Return the job that a scheme's run trains.

    Raises:
        ConfigError: the scheme is not known, or not for so many workers.
    """
    ideal_s = options.step_s
    config = TrainConfig(
        model="timed",
        optimizer=OptimizerConfig(
            steps=options.steps,
            batch=options.batch,
            microbatch=max(1, options.batch // (4 * options.workers)),
            lr=0.001,
        ),
        workers=WorkersConfig(
            count=options.workers,
            scheme=name,
            patience=options.patience,
            lost_after_s=max(_LEAST_LOST_S, _IDEALS_LOST * ideal_s),
            max_losses=10_000,
        ),
    )
    if config.is_queued:
        config.queue_schedule(options.workers, ChunkTimes())  # rejects uneven groups
    elif config.round_scheme is None:
        raise ConfigError(f"scheme {name!r} chooses among the others: name the ones to measure")
    return config


def measure_scheme(
    options: BenchTrainOptions, config: TrainConfig, name: str, factor: float
) -> SchemeRow:
    """Return what a scheme's steps take on actors of their own; Ray must be there."""
    ideal_s = options.step_s
    spec = TimedSpec(
        sample_s=ideal_s * options.workers / options.batch,
        num_samples=4 * options.batch,
        slow=options.slow if factor != 1 else 0.0,
        factor=factor,
        seed=options.seed,
    )
    pool = RayPool(TimedWorkerActor, (spec,), options.workers)
    try:
        pool.wait_ready(options.workers)
        clock, learned = MonotonicClock(), [1] * spec.num_samples
        optimizers = [AdamW.start(start_vector()) for _ in range(config.num_trials)]
        seconds, reports = [], []
        scheme = config.round_scheme
        if scheme is None:
            queue = QueueCoordinator(config, optimizers[0], pool, learned, clock)
            for _ in range(options.steps):
                report = queue.step()
                seconds.append(report.seconds)
                reports.append(report)
        else:
            rounds = RoundCoordinator(config, scheme, optimizers, pool, learned, clock)
            while not rounds.is_done and len(seconds) < options.steps:
                start_s = clock.now_s()
                reports += rounds.round()
                seconds.append(clock.now_s() - start_s)
    finally:
        pool.close()
    return SchemeRow(
        scheme=name,
        factor=factor,
        seconds=round(statistics.fmean(seconds), 4),
        ratio=round(statistics.fmean(seconds) / ideal_s, 3),
        p90_ratio=round(sorted(seconds)[int(0.9 * (len(seconds) - 1))] / ideal_s, 3),
        late=round(sum(report.num_stragglers for report in reports) / len(seconds), 2),
        lost=sum(report.num_lost for report in reports),
    )


def _kind(factor: float) -> str:
    if factor == 1:
        return "no stragglers"
    return "hangs" if math.isinf(factor) else f"{factor:g}x"


def _table(rows: Sequence[SchemeRow], options: BenchTrainOptions) -> Table:
    title = (
        f"{options.workers} workers, {options.steps} steps; a step's time to its ideal of "
        f"{1000 * options.step_s:.0f} ms"
    )
    table = Table(title=title)
    table.add_column("scheme")
    for factor in options.factors:
        table.add_column(_kind(factor), justify="right")
    for scheme in options.schemes:
        mine = {row.factor: row for row in rows if row.scheme == scheme}
        table.add_row(scheme, *(f"{mine[factor].ratio:.2f}" for factor in options.factors))
    return table
