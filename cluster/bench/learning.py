"""`paceline bench learn`: learning curves of a job by several methods."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cluster.charts.learning_chart import plot_curves
from cluster.options.bench_options import BenchLearnOptions
from cluster.reports.run_report import output_console
from cluster.train.evaluator import Evaluator
from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.models.tokenizer import Tokenizer
from runtime.training.job.config_file import load_config
from runtime.training.job.job_config import TrainConfig
from runtime.training.samples import EvalSamples, Sampler
from runtime.training.shared_seed.compare import (
    FIRST_ORDER,
    METHODS,
    FirstOrder,
    Mark,
    Scalars,
    Weights,
    curve,
    use_threads,
)
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.replica_measure import LocalMeasure
from runtime.training.shared_seed.shared_seed_job import header_of
from runtime.training.trainable import Trainable
from runtime.training.training_data import read_examples

_NOTES = Console(stderr=True, highlight=False)


def run(options: BenchLearnOptions) -> int:
    """Train by each method in turn, resuming an interrupted run; return the exit code.

    Raises:
        ConfigError: a method is unknown, or the job cannot be used.
    """
    for name in options.methods:
        if name not in METHODS:
            raise ConfigError(f"`methods` has {name!r}: choose among {', '.join(METHODS)}")
    config = load_config(options.config, options.settings)
    if not config.data.eval:
        raise ConfigError("data.eval is missing from the configuration: what is measured on?")
    use_threads(config.workers.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    directory = resolve_model(config.model)
    marks: list[Mark] = []
    for name in options.methods:
        marks += _learn(name, config, directory, options)
    title = f"{config.model}, {Path(config.data.train).name}"
    plot_curves(marks, options.out / "curves.png", title=title)
    if options.json:
        print(json.dumps({"rows": [asdict(mark) for mark in marks]}))
    else:
        output_console().print(_table(marks))
    return 0


def _learn(
    name: str, config: TrainConfig, directory: Path, options: BenchLearnOptions
) -> list[Mark]:
    tokenizer = Tokenizer.load(directory)
    data = config.data
    sampler = Sampler.of(directory, tokenizer, data.max_length)
    examples = read_examples(Path(data.train), data, tokenizer, limit=data.limit)
    samples = sampler.samples(examples, among_choices=data.among_choices)
    tests = read_examples(Path(data.eval), data, tokenizer, limit=config.num_eval)
    few, all_tests = (EvalSamples.of(some, sampler) for some in (tests[: options.tests], tests))
    header = header_of(config, directory)
    model = PointsModel.load(directory, header)
    method: Scalars | FirstOrder
    if name == FIRST_ORDER:
        trainable = Trainable.load(directory, config)
        method = FirstOrder(config, trainable, samples, model.points.start(), options.first_lr)
    else:
        method = Scalars(config, header, model, samples, exact=name != METHODS[0])
    some, whole = Evaluator(few, LocalMeasure(model)), Evaluator(all_tests, LocalMeasure(model))

    def measure(theta: Weights) -> dict[str, float]:
        at_border = method.num_rows in (0, options.budget) or method.num_rows > options.budget
        return (whole if at_border else some)(theta.numpy()) | {"all": float(at_border)}

    return _watched(name, method, measure, options)


def _watched(
    name: str,
    method: Scalars | FirstOrder,
    measure: Callable[[Weights], dict[str, float]],
    options: BenchLearnOptions,
) -> list[Mark]:
    marks = []
    columns = (TextColumn(name), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=_NOTES) as progress:
        task = progress.add_task("", total=options.budget, figures="")
        for mark in curve(
            method, name, options.out, measure, budget=options.budget, every=options.every
        ):
            marks.append(mark)
            figures = ", ".join(f"{k} {v:g}" for k, v in mark.measured.items() if k != "all")
            progress.update(
                task, completed=mark.num_rows, figures=f"loss {mark.loss:.3f}, {figures}"
            )
            progress.console.print(f"{name}, {mark.num_rows} sequences: {figures}")
    return marks


def _table(marks: list[Mark]) -> Table:
    table = Table(title="learning curves, by sequences processed")
    for column in ("method", "steps", "sequences", "loss", "measured"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for mark in marks:
        figures = ", ".join(f"{k} {v:g}" for k, v in mark.measured.items() if k != "all")
        loss = f"{mark.loss:.3f}" if mark.step else ""
        table.add_row(mark.method, str(mark.step), str(mark.num_rows), loss, figures)
    return table
