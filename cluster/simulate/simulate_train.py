"""`paceline simulate train`: compare straggler schemes on a cluster in virtual time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.charts.schemes_chart import plot_schemes
from cluster.options.simulate_options import SimulateTrainOptions
from cluster.reports.run_report import output_console
from parallel.training.gradient_coding.names import ROUND_FORMS, round_scheme, split_name
from parallel.training.gradient_coding.queue_schedules import (
    QUEUE_SCHEMES,
    ChunkTimes,
    QueueShape,
)
from parallel.training.gradient_coding.queue_simulation import simulate_queue
from parallel.training.gradient_coding.scheme_simulation import SimulatedScheme, simulate_rounds
from parallel.training.gradient_coding.worker_times import TimeModel
from runtime.errors import ConfigError
from runtime.training.time_models import time_model

_FORMS = f"{ROUND_FORMS}, {', '.join(queue.form for queue in QUEUE_SCHEMES.values())}"

Runner = Callable[[TimeModel], SimulatedScheme]


def run(options: SimulateTrainOptions) -> int:
    """Simulate every scheme with the same worker times and print a table; return the exit code.

    Raises:
        ConfigError: a scheme, the model or a file cannot be used.
    """
    times, num_workers = time_model(
        options.model,
        num_workers=options.workers,
        num_rounds=options.rounds,
        slope=options.slope,
        seed=options.seed,
    )
    runners = [parse_scheme(name, num_workers, options.patience) for name in options.schemes]
    notes = Console(stderr=True)
    try:
        found = [
            runner(times) for runner in track(runners, "simulating", console=notes, transient=True)
        ]
    except ValueError as error:
        raise ConfigError(f"`rounds` or `schemes`: {error}") from error
    if options.plot is not None:
        plot_schemes(found, options.plot, title=f"{num_workers} workers, {options.model}")
    if options.json:
        config = {"workers": num_workers, "model": options.model, "patience": options.patience}
        print(json.dumps({"config": config, "rows": [asdict(one) for one in found]}))
    else:
        output_console().print(_table(found))
    return 0


def parse_scheme(
    name: str,
    num_workers: int,
    patience: float,
    *,
    carries_over: bool = False,
    turn_s: float = 0.0,
) -> Runner:
    """Return the function that simulates the named scheme, for example gc-3 or m-sgc-1-3-4.

    With `carries_over`, a worker that computes a copied chunk when a step ends finishes it at the
    start of the next step. The coordinator takes `turn_s` to receive each result.

    Raises:
        ConfigError: there is no such scheme, or not with these parameters.
    """
    stem, numbers = split_name(name)
    try:
        shape = _queue_shape(stem, numbers, num_workers)
        if shape is not None:
            make = partial(QUEUE_SCHEMES[stem].make, shape)
            make(ChunkTimes())  # rejects groups that do not divide the workers
            return lambda times: simulate_queue(
                name,
                make,
                times,
                num_workers=num_workers,
                chunks_each=shape.num_chunks // num_workers,
                carries_over=carries_over,
                turn_s=turn_s,
            )
        scheme = round_scheme(name, num_workers)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"`schemes` has {name!r}: {error}") from error
    if scheme is None:
        raise ConfigError(f"`schemes` has {name!r}: choose among {_FORMS}")
    return lambda times: simulate_rounds(scheme, times, patience=patience, turn_s=turn_s)


def _queue_shape(stem: str, numbers: list[int], num_workers: int) -> QueueShape | None:
    queue = QUEUE_SCHEMES.get(stem)
    if queue is None:
        return None
    if len(numbers) != 1 or numbers[0] < 1:
        raise ValueError(f"write it with one number, as in {stem}-4")
    return queue.shape(num_workers, numbers[0])


def _table(found: Sequence[SimulatedScheme]) -> Table:
    table = Table(title="the same times for every scheme")
    for name in ("scheme", "exact", "load x n", "time a job", "to first", "waits", "late", "work"):
        table.add_column(name, justify="left" if name == "scheme" else "right")
    first = found[0].seconds / found[0].num_jobs
    for one in found:
        each = one.seconds / one.num_jobs
        table.add_row(
            one.scheme,
            "yes" if one.is_exact else "no",
            f"{one.load:.2f}",
            f"{each:.3f}",
            f"{each / first:.2f}",
            str(one.num_waits),
            f"{one.stragglers:.1f}",
            f"{one.work:.2f}",
        )
    return table
