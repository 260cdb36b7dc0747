"""The terminal tables of an experiment."""

from collections.abc import Sequence

from rich.table import Table

from cluster.experiment.experiment_config import Experiment
from cluster.experiment.result_rows import PointRow, varying


def results_table(rows: Sequence[PointRow], title: str) -> Table:
    """Return a table of measurements and predictions."""
    table = Table(title=title)
    axes = varying([row.point for row in rows]) or ["devices"]
    for name in axes:
        table.add_column(name.replace("_", " "))
    for name in ("devices", "rate", "spread", "simulated", "to it", "speed-up", "efficiency"):
        table.add_column(name, justify="right")
    for row in rows:
        spread = f"{row.low:.2f}-{row.high:.2f}" if row.low is not None else "-"
        if row.errors and not row.runs:
            spread = "failed"
        table.add_row(
            *(axis_text(row, name) for name in axes),
            str(row.point.devices),
            number(row.rate),
            spread,
            number(row.predicted.rate if row.predicted is not None else None),
            number(row.ratio, 3),
            number(row.speedup),
            number(row.efficiency),
        )
    return table


def plan_table(rows: Sequence[PointRow], experiment: Experiment) -> Table:
    """Return a table of predictions, with the estimated time to measure all points."""
    runs_s = sum(row.predicted.wall_s for row in rows if row.predicted is not None)
    repeats = experiment.repeats
    caption = f"{repeats} runs of {len(rows)} points: {repeats * runs_s:.0f} s, plus start times"
    table = Table(title=experiment.title or "simulated", caption=caption)
    axes = varying([row.point for row in rows]) or ["devices"]
    for name in axes:
        table.add_column(name.replace("_", " "))
    for name in ("devices", "rate", "speed-up", "efficiency", "run time"):
        table.add_column(name, justify="right")
    for row in rows:
        found = row.predicted
        table.add_row(
            *(axis_text(row, name) for name in axes),
            str(row.point.devices),
            number(found.rate if found is not None else None),
            number(row.predicted_speedup),
            number(row.predicted_efficiency),
            f"{found.wall_s:.1f} s" if found is not None else "-",
        )
    return table


def axis_text(row: PointRow, name: str) -> str:
    """Return the value of a point on an axis, as display text."""
    value = getattr(row.point, name)
    if value is None:
        return "auto" if name == "draft_length" and getattr(row.point, "drafter_tp", True) else "-"
    if name == "draft":
        return f"{1000 * value:g} ms"
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: float | None, digits: int = 2) -> str:
    """Return a figure as text, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"
