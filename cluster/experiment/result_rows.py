"""The rows of a report: the prediction, the measurements and the scaling of each point."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.experiment.predict import Prediction
from cluster.experiment.store import MeasuredPoint
from cluster.experiment.sweep_points import GeneratePoint, Point, TrainPoint

_DRAFTER_AXES = ("drafter_tp", "layer_parallel", "draft_length", "alpha", "draft")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRow:
    """One point."""

    point: Point
    predicted: Prediction | None
    runs: tuple[MeasuredPoint, ...] = ()
    """The successful runs."""
    errors: tuple[str, ...] = ()
    speedup: float | None = None
    """The measured speed-up over the baseline."""
    predicted_speedup: float | None = None
    base_devices: int = 1
    """The number of devices of the baseline."""
    identical: bool | None = None
    """Whether the output tokens equal the baseline's; None if they are not compared."""

    @property
    def rate(self) -> float | None:
        """The median rate of the runs."""
        return statistics.median(run.rate for run in self.runs) if self.runs else None

    @property
    def low(self) -> float | None:
        """The rate of the slowest run."""
        return min((run.rate for run in self.runs), default=None)

    @property
    def high(self) -> float | None:
        """The rate of the fastest run."""
        return max((run.rate for run in self.runs), default=None)

    @property
    def ratio(self) -> float | None:
        """The ratio of the measured to the predicted rate."""
        if self.rate is None or self.predicted is None:
            return None
        return self.rate / self.predicted.rate

    @property
    def efficiency(self) -> float | None:
        """The measured speed-up per device; 1 for the baseline."""
        return self._each(self.speedup)

    @property
    def predicted_efficiency(self) -> float | None:
        """The predicted speed-up per device; 1 for the baseline."""
        return self._each(self.predicted_speedup)

    def figure(self, name: str) -> float | None:
        """Return the median of a measured figure."""
        values = [run.figures[name] for run in self.runs if name in run.figures]
        return statistics.median(values) if values else None

    def _each(self, speedup: float | None) -> float | None:
        return None if speedup is None else speedup * self.base_devices / self.point.devices


def make_rows(
    points: Sequence[Point], plan: Mapping[str, Prediction], results: Sequence[MeasuredPoint]
) -> list[PointRow]:
    """Return a row for each point, in the order of the sweep."""
    rows = []
    for point in points:
        mine = [measured for measured in results if measured.key == point.key]
        rows.append(
            PointRow(
                point=point,
                predicted=plan.get(point.key),
                runs=tuple(measured for measured in mine if not measured.error),
                errors=tuple(measured.error for measured in mine if measured.error),
            )
        )
    return [_compared(row, _baseline(row, rows)) for row in rows]


def _baseline(row: PointRow, rows: Sequence[PointRow]) -> PointRow:
    """Return the baseline of a row: plain, on the fewest devices, with the same load."""
    alike = [other for other in rows if _load(other.point) == _load(row.point)]
    return min(alike, key=lambda other: (other.point.devices, not _is_plain(other.point)))


def _load(point: Point) -> object:
    return None if isinstance(point, TrainPoint) else (point.clients, point.rate)


def _is_plain(point: Point) -> bool:
    return point.factor == 1 if isinstance(point, TrainPoint) else not point.drafts


def _compared(row: PointRow, base: PointRow) -> PointRow:
    speedup = predicted = None
    if row.rate is not None and base.rate:
        speedup = row.rate / base.rate
    if row.predicted is not None and base.predicted is not None:
        predicted = row.predicted.rate / base.predicted.rate
    identical = None
    if isinstance(row.point, GeneratePoint) and row.runs and base.runs:
        identical = {run.digest for run in row.runs} == {base.runs[0].digest}
    return replace(
        row,
        speedup=speedup,
        predicted_speedup=predicted,
        base_devices=base.point.devices,
        identical=identical,
    )


def varying(points: Sequence[Point]) -> list[str]:
    """Return the axes in which the points differ."""
    return [
        name
        for name in (points[0].AXES if points else ())
        if len({getattr(point, name) for point in points if _applies_to(point, name)}) > 1
    ]


def _applies_to(point: Point, axis: str) -> bool:
    """Return whether an axis applies to a point; a drafter's axes need a drafter."""
    return axis not in _DRAFTER_AXES or not _is_plain(point)
