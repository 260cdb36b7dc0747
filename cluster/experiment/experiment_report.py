"""`paceline experiment report`: write charts, a table and a page from a results directory."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cluster.experiment.experiment_config import Experiment
from cluster.experiment.page import write_page
from cluster.experiment.result_rows import PointRow, make_rows
from cluster.experiment.result_tables import results_table
from cluster.experiment.scaling_charts import (
    free_axes,
    plot_agreement,
    plot_axis,
    plot_scaling,
    scaling_axis,
)
from cluster.experiment.store import (
    read_config,
    read_environment,
    read_plan,
    read_results,
)
from cluster.experiment.sweep_points import KEY_LEGEND, points_of
from cluster.experiment.timeline_chart import plot_timelines
from cluster.experiment.timelines import comparable_timelines
from cluster.options.experiment_options import ExperimentReportOptions
from cluster.reports.run_report import output_console

PAGE = "report.html"
_PICTURES = ("scaling.png", "by-*.png", "timeline.png", "agreement.png")


def run(options: ExperimentReportOptions) -> int:
    """Write the report again and print the table; return the exit code.

    Raises:
        ConfigError: the directory holds no experiment.
    """
    directory = options.directory
    experiment = read_config(directory)
    points = points_of(experiment)
    rows = make_rows(points, read_plan(directory), read_results(directory))
    page = write_report(directory, experiment, rows)
    if options.json:
        print(json.dumps({"report": str(page), "rows": rows_json(rows)}))
        return 0
    output_console().print(results_table(rows, experiment.title or directory.name))
    Console(stderr=True, highlight=False).print(f"report: {page}", soft_wrap=True)
    return 0


def write_report(directory: Path, experiment: Experiment, rows: Sequence[PointRow]) -> Path:
    """Write the pictures and the page; return the path of the page."""
    for old in [file for name in _PICTURES for file in directory.glob(name)]:
        old.unlink()  # from a sweep with other axes
    unit = "samples a second" if experiment.kind == "train" else "tokens a second"
    pictures: list[tuple[str, str, Path]] = []
    growing, largest, where = scaling_axis([row.point for row in rows]), list(rows), ""
    if growing is not None:
        most = max(getattr(row.point, growing) for row in rows)
        largest = [row for row in rows if getattr(row.point, growing) == most]
        where = f" With {growing} {most}."
        file = directory / "scaling.png"
        plot_scaling(rows, file, unit=unit)
        words = (
            "Dots: measured, the median of the runs, with a bar from the slowest to the fastest. "
            "Dashed: simulated. The baseline is plain decoding, or training "
            "without stragglers, on the fewest devices."
        )
        pictures.append(("Scaling", words, file))
    for axis in free_axes(rows):
        file = directory / f"by-{axis}.png"
        plot_axis(largest, axis, file, unit=unit)
        words = f"Dots: measured. Dashed: simulated.{where}"
        pictures.append((f"By {axis.replace('_', ' ')}", words, file))
    timelines = comparable_timelines(directory, experiment, rows)
    if timelines:
        file = directory / "timeline.png"
        plot_timelines(timelines, file)
        words = "The start of a run, simulated"
        if any(row.runs for row in rows):
            words = "Spans that leader and drafter recorded, from the middle of a measured run"
        words += f"; the points differ only in the mode. {KEY_LEGEND}"
        pictures.append(("When target and drafter work", words, file))
    if any(row.ratio is not None for row in rows):
        file = directory / "agreement.png"
        plot_agreement(rows, file)
        pictures.append(("Measured to simulated", "", file))
    page = directory / PAGE
    write_page(page, experiment, rows, pictures, read_environment(directory))
    return page


def rows_json(rows: Sequence[PointRow]) -> list[dict[str, object]]:
    """Return the rows as values for JSON output."""
    return [
        {
            "key": row.point.key,
            **{name: getattr(row.point, name) for name in row.point.AXES},
            "devices": row.point.devices,
            "runs": len(row.runs),
            "rate": row.rate,
            "rate_min": row.low,
            "rate_max": row.high,
            "predicted_rate": row.predicted.rate if row.predicted is not None else None,
            "ratio_to_predicted": row.ratio,
            "speedup": row.speedup,
            "predicted_speedup": row.predicted_speedup,
            "efficiency": row.efficiency,
            "identical": row.identical,
            "errors": list(row.errors),
        }
        for row in rows
    ]
