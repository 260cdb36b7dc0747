"""`paceline experiment run`: predict every point, measure what is missing, report."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cluster.experiment.experiment_config import Experiment, load_experiment
from cluster.experiment.experiment_plan import predict_all
from cluster.experiment.experiment_report import rows_json, write_report
from cluster.experiment.generation_points import GenerateBench
from cluster.experiment.predict import Prediction
from cluster.experiment.result_rows import make_rows
from cluster.experiment.result_tables import results_table
from cluster.experiment.store import MeasuredPoint, Store, read_results
from cluster.experiment.sweep_points import GeneratePoint, Point, TrainPoint, points_of
from cluster.experiment.training_points import TrainBench
from cluster.network.ray_session import RaySession
from cluster.options.experiment_options import ExperimentOptions
from cluster.placement.cluster_nodes import cluster_nodes
from cluster.placement.placement import Node
from cluster.reports.environment import environment
from cluster.reports.run_report import output_console
from runtime.errors import PacelineError

_NOTES = Console(stderr=True, highlight=False)
_START_S = 10.0
"""A rough start time of the actors of a point, used only to estimate the remaining time."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One run of one point."""

    point: Point
    repeat: int


def run(options: ExperimentOptions) -> int:
    """Measure the missing points of an experiment; return the exit code: 1 if a point failed.

    Raises:
        ConfigError: something in the file cannot be used; nothing was started.
    """
    logging.getLogger("paceline").setLevel(logging.ERROR)
    experiment = load_experiment(options.file, options.out)
    if options.ray_address is not None:
        experiment = experiment.model_copy(update={"ray": options.ray_address})
    with cluster_nodes(experiment.ray) as nodes:
        return _run(options, experiment, nodes)


def _run(options: ExperimentOptions, experiment: Experiment, nodes: Sequence[Node]) -> int:
    points = points_of(experiment)
    bench = _bench(experiment, points, nodes)
    plan = predict_all(experiment, points)
    with Store(Path(experiment.out)) as store:
        store.keep_config(experiment)
        store.keep_plan(plan)
        known = read_results(store.directory)
        todo = missing(units_of(experiment, points), known, retry=options.retry)
        if todo:
            store.keep_environment(environment())
            with RaySession(experiment.ray, num_actors=bench.num_actors):
                _measure_all(bench, todo, store, plan)
        results = read_results(store.directory)
        rows = make_rows(points, plan, results)
        page = write_report(store.directory, experiment, rows)
    if options.json:
        print(json.dumps({"report": str(page), "rows": rows_json(rows)}))
    else:
        output_console().print(results_table(rows, experiment.title or options.file.stem))
        _NOTES.print(f"report: {page}", soft_wrap=True)
    return 1 if any(row.errors and not row.runs for row in rows) else 0


def units_of(experiment: Experiment, points: Sequence[Point]) -> list[Unit]:
    """Return all runs in order: interleaved repeats, with few starts of deployments."""
    if experiment.kind == "train":  # each run starts its own workers, so grouping saves no starts
        return [Unit(point, number) for number in range(experiment.repeats) for point in points]
    groups: dict[object, list[GeneratePoint]] = {}
    for point in points:
        assert isinstance(point, GeneratePoint)
        groups.setdefault(point.deployment, []).append(point)
    numbers = range(experiment.repeats)
    if experiment.order == "sweep":
        return [Unit(p, number) for number in numbers for some in groups.values() for p in some]
    return [Unit(p, number) for some in groups.values() for number in numbers for p in some]


def missing(units: Sequence[Unit], known: Sequence[MeasuredPoint], *, retry: bool) -> list[Unit]:
    """Return the runs without a result; with `retry` also those that failed."""
    done = {(one.key, one.repeat) for one in known if not (one.error and retry)}
    return [unit for unit in units if (unit.point.key, unit.repeat) not in done]


def _bench(
    experiment: Experiment, points: Sequence[Point], nodes: Sequence[Node]
) -> GenerateBench | TrainBench:
    if experiment.kind == "train":
        return TrainBench(experiment, [p for p in points if isinstance(p, TrainPoint)])
    return GenerateBench(experiment, [p for p in points if isinstance(p, GeneratePoint)], nodes)


def _measure_all(
    bench: GenerateBench | TrainBench,
    todo: Sequence[Unit],
    store: Store,
    plan: dict[str, Prediction],
) -> None:
    try:
        with _progress(todo, plan) as advance:
            for unit in todo:
                advance.begin(unit)
                store.keep(_measure(bench, unit, store))
                advance.end(unit)
    finally:
        if isinstance(bench, GenerateBench):
            bench.close()


def _measure(bench: GenerateBench | TrainBench, unit: Unit, store: Store) -> MeasuredPoint:
    """Return a measured run, or a record of its error, so that other points still run."""
    point = unit.point
    try:
        if isinstance(bench, TrainBench):
            assert isinstance(point, TrainPoint)
            return bench.measure(point, unit.repeat)
        assert isinstance(point, GeneratePoint)
        measured, spans = bench.measure(point, unit.repeat)
    except PacelineError as error:
        _NOTES.print(f"[yellow]point {point.key} failed:[/] {error}", soft_wrap=True)
        return MeasuredPoint(
            key=point.key,
            repeat=unit.repeat,
            figures={},
            error=f"{type(error).__name__}: {error}",
        )
    if spans:
        store.keep_timeline(point.key, spans)
    return measured


class _Advance:
    """Advances the progress bar by the predicted time of each run."""

    def __init__(self, progress: Progress, todo: Sequence[Unit], plan: dict[str, Prediction]):
        self._progress, self._plan = progress, plan
        total = sum(self._weight(unit) for unit in todo)
        self._task = progress.add_task("", total=total, done=0, all=len(todo))
        self._done = 0

    def begin(self, unit: Unit) -> None:
        """Show the name of the run that starts."""
        self._progress.update(self._task, description=f"{unit.point.key} #{unit.repeat + 1}")

    def end(self, unit: Unit) -> None:
        """Count the run as done."""
        self._done += 1
        self._progress.update(self._task, advance=self._weight(unit), done=self._done)

    def _weight(self, unit: Unit) -> float:
        prediction = self._plan.get(unit.point.key)
        return _START_S / 4 + (prediction.wall_s if prediction is not None else _START_S)


@contextmanager
def _progress(todo: Sequence[Unit], plan: dict[str, Prediction]) -> Iterator[_Advance]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[all]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=_NOTES,
        refresh_per_second=1,  # leaves the cores to the measurement
    ) as progress:
        yield _Advance(progress, todo, plan)
