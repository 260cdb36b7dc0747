"""Choosing the timelines to compare: points that differ only in their mode."""

from collections.abc import Sequence
from pathlib import Path

from cluster.experiment.experiment_config import Experiment
from cluster.experiment.predict import simulated_spans
from cluster.experiment.result_rows import PointRow
from cluster.experiment.store import read_timeline
from cluster.experiment.sweep_points import GeneratePoint
from runtime.timeline import PhaseSpan, SpanKind

Timelines = dict[str, list[PhaseSpan]]


def comparable_timelines(
    directory: Path, experiment: Experiment, rows: Sequence[PointRow]
) -> Timelines:
    """Return the spans of points that are equal in all axes except the mode, by their keys.

    The spans are recorded ones, or simulated ones if no point is measured. Among the groups with
    the most modes, choose the group that has the most efficient point.
    """
    groups: dict[tuple[object, ...], list[tuple[float, GeneratePoint]]] = {}
    for row in rows:
        point = row.point
        efficiency = _efficiency(row, rows)
        if isinstance(point, GeneratePoint) and efficiency is not None:
            alike = tuple(getattr(point, axis) for axis in point.AXES if axis != "mode")
            groups.setdefault(alike, []).append((efficiency, point))
    is_measured = any(row.runs for row in rows)
    found: Timelines = {}
    for group in sorted(groups.values(), key=lambda some: -max(rate for rate, _ in some)):
        spans = {p.key: _spans(directory, experiment, p, is_measured) for _, p in group}
        spans = {key: some for key, some in spans.items() if _has_both(some)}
        if len(spans) > len(found):
            found = spans
    return found


def _efficiency(row: PointRow, rows: Sequence[PointRow]) -> float | None:
    """Return tokens per second and device; None for points without a timeline."""
    if isinstance(row.point, GeneratePoint) and not row.point.drafts:
        return None
    rate = row.rate
    if rate is None and row.predicted is not None and not any(each.runs for each in rows):
        rate = row.predicted.rate
    return None if rate is None else rate / row.point.devices


def _spans(
    directory: Path, experiment: Experiment, point: GeneratePoint, is_measured: bool
) -> list[PhaseSpan]:
    if not is_measured and experiment.devices is not None:
        return simulated_spans(experiment, point)
    return read_timeline(directory, point.key)


def _has_both(spans: Sequence[PhaseSpan]) -> bool:
    return {SpanKind.VERIFY, SpanKind.DRAFT} <= {span.phase for span in spans}
