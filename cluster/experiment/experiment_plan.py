"""`paceline experiment plan`: predict every point with the simulators; start nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cluster.experiment.experiment_config import Experiment, load_experiment
from cluster.experiment.experiment_report import write_report
from cluster.experiment.predict import Prediction, predict
from cluster.experiment.result_rows import make_rows
from cluster.experiment.result_tables import plan_table
from cluster.experiment.store import Store, read_results
from cluster.experiment.sweep_points import Point, points_of
from cluster.options.experiment_options import ExperimentPlanOptions
from cluster.reports.run_report import output_console
from runtime.errors import ConfigError

_NOTES = Console(stderr=True, highlight=False)


def run(options: ExperimentPlanOptions) -> int:
    """Simulate every point, write the report and print the table; return the exit code.

    Raises:
        ConfigError: a value in the file is invalid.
    """
    experiment = load_experiment(options.file, options.out)
    points = points_of(experiment)
    plan = predict_all(experiment, points)
    if not plan:
        raise ConfigError(
            "nothing can be predicted: add a section [devices] with the times of forwards and "
            "draft steps (docs/experiments.md)"
        )
    with Store(Path(experiment.out)) as store:
        store.keep_config(experiment)
        store.keep_plan(plan)
        rows = make_rows(points, plan, read_results(store.directory))
        page = write_report(store.directory, experiment, rows)
    if options.json:
        print(json.dumps({key: asdict(prediction) for key, prediction in plan.items()}))
    else:
        output_console().print(plan_table(rows, experiment))
        _NOTES.print(f"report: {page}", soft_wrap=True)
    return 0


def predict_all(experiment: Experiment, points: Sequence[Point]) -> dict[str, Prediction]:
    """Return the available predictions of the points."""
    found = {}
    for point in track(points, "simulating", console=_NOTES, transient=True):
        prediction = predict(experiment, point)
        if prediction is not None:
            found[point.key] = prediction
    return found
