"""`paceline bench train`: the time of a step under stragglers, by scheme, compared with the ideal.

Real actors, messages and schemes; the computation of a sample is a timed wait, so that many workers
fit on few cores.
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
from runtime.training.training_step import SampleSizes

_IDEALS_LOST, _LEAST_LOST_S = 4.0, 2.0
"""Multiples of a step's time, and seconds, after which a silent worker is marked as lost. A worker
that is ten times slower is not: its microbatch, a quarter of a share, takes 2.5 times a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeRow:
    """One scheme under one kind of straggler."""

    scheme: str
    factor: float
    """Slowdown of a straggler; infinite means that it hangs."""
    seconds: float
    """Mean time of a step."""
    ratio: float
    """Ratio of the mean time to the ideal, in which the batch's computation is evenly split."""
    p90_ratio: float
    late: float
    """Mean number of workers per step whose result came too late."""
    lost: int
    """Workers that were marked as lost and replaced."""


def run(options: BenchTrainOptions) -> int:
    """Measure every scheme; return the exit code.

    Raises:
        ConfigError: a scheme is unknown, or does not fit the number of workers.
    """
    if options.batch < options.workers:
        raise ConfigError(
            f"`batch` is {options.batch}: it must be at least the {options.workers} workers"
        )
    configs = {name: job_config(options, name) for name in options.schemes}
    kinds = [(factor, name) for factor in options.factors for name in configs]
    logging.getLogger("paceline.train").setLevel(logging.ERROR)  # lost workers are counted
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
            if options.json:  # at once, so that an interrupted run keeps its rows
                written = None if math.isinf(factor) else factor  # JSON has no infinity
                print(json.dumps(asdict(rows[-1]) | {"factor": written}), flush=True)
    if not options.json:
        output_console().print(_table(rows, options))
    return 0


def job_config(options: BenchTrainOptions, name: str) -> TrainConfig:
    """Return the configuration of a scheme's training job.

    Raises:
        ConfigError: the scheme is unknown, or does not fit the number of workers.
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
    """Measure the steps of a scheme on its own actors; Ray must be running."""
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
        clock, ones = MonotonicClock(), [1] * spec.num_samples
        sizes = SampleSizes(num_tokens=ones, num_loss_tokens=ones)
        optimizers = [AdamW.start(start_vector()) for _ in range(config.num_trials)]
        seconds, reports = [], []
        scheme = config.round_scheme
        if scheme is None:
            queue = QueueCoordinator(config, optimizers[0], pool, sizes, clock)
            for _ in range(options.steps):
                report = queue.step()
                seconds.append(report.seconds)
                reports.append(report)
        else:
            rounds = RoundCoordinator(config, scheme, optimizers, pool, sizes, clock)
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
