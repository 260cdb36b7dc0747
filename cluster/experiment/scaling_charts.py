"""Charts of how rate, speed-up and efficiency scale, measured and predicted."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from cluster.charts.figure import new_figure, save_small_png
from cluster.experiment.result_rows import PointRow, varying
from cluster.experiment.result_tables import axis_text
from cluster.experiment.sweep_points import Point

_SIZES = ("workers", "replicas", "tp", "drafter_tp", "drafters", "nodes")
"""Axes that add devices, in order of preference."""
_NUMERIC = ("draft_length", "layer_parallel", "alpha", "draft", "clients", "rate", "factor")
_PANELS = {"alpha": "draft", "draft": "alpha"}
_NOTHING = ("-", "0", "off")
_BAND = 0.05
_HEIGHT = 4.2
_WIDE = 30
"""Minimum ratio of the highest to the lowest rate for a logarithmic scale."""


def scaling_axis(points: Sequence[Point]) -> str | None:
    """Return the axis that adds devices and has the most values; None if none varies."""
    counts = {
        name: len({getattr(point, name) for point in points})
        for name in _SIZES
        if points and name in points[0].AXES
    }
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best is not None and counts[best] > 1 else None


def plot_scaling(rows: Sequence[PointRow], file: Path, *, unit: str) -> None:
    """Plot rate, speed-up and efficiency by devices: measured with marks, predicted dashed."""
    axis = scaling_axis([row.point for row in rows])
    assert axis is not None
    figure, panels = new_figure(3, width=13.5, height=_HEIGHT)
    devices = sorted({row.point.devices for row in rows})
    for index, (name, some) in enumerate(_series(rows, axis).items()):
        some = sorted(some, key=lambda row: row.point.devices)
        color = f"C{index % 10}"
        _line(panels[0], some, "rate", color, name)
        _line(panels[1], some, "speedup", color, "")
        _line(panels[2], some, "efficiency", color, "")
    base = min(row.base_devices for row in rows)
    panels[1].plot(devices, [n / base for n in devices], color="0.8", linewidth=1, zorder=0)
    panels[1].annotate("ideal", (devices[-1], devices[-1] / base), color="0.5", ha="right")
    panels[2].axhline(1.0, color="0.8", linewidth=1, zorder=0)
    labels = (unit, "speed-up against the baseline", "speed-up a device")
    for panel, label in zip(panels, labels, strict=True):
        panel.set(xlabel="devices", ylabel=label)
        panel.set_ylim(bottom=0)
        _device_ticks(panel, devices)
    for panel in panels[:2] if _is_wide(rows) else ():
        _logarithmic(panel)
    _finish(figure, file)


def plot_axis(rows: Sequence[PointRow], axis: str, file: Path, *, unit: str) -> None:
    """Plot the rate along one axis that adds no devices.

    Acceptance and draft time have a panel for each value of the other one.
    """
    other = _PANELS.get(axis)
    shown = [None]
    if other in varying([row.point for row in rows]):
        shown = list(dict.fromkeys(v for row in rows if (v := getattr(row.point, other))))
    width = 7.5 if len(shown) == 1 else min(5.0 * len(shown), 14.0)
    figure, panels = new_figure(len(shown), width=width, height=_HEIGHT)
    top = max(rate for row in rows for rate in (row.rate, _predicted(row, "rate"), 0.0) if rate)
    for panel, value in zip(panels, shown, strict=True):
        some = list(rows)
        if value is not None:
            some = [row for row in rows if getattr(row.point, other) in (value, None)]
            name = str(other).replace("_", " ")
            panel.set_title(f"{name} {axis_text(_first_with(some, other), other)}", fontsize=9)
        _plot_axis_panel(panel, some, axis, has_labels=panel is panels[0])
        panel.set_ylim(bottom=0, top=1.05 * top)
        panel.set(xlabel=axis.replace("_", " "), ylabel=unit)
    _finish(figure, file)


def _first_with(rows: Sequence[PointRow], axis: str) -> PointRow:
    return next(row for row in rows if getattr(row.point, axis) is not None)


def _plot_axis_panel(panel: Axes, rows: Sequence[PointRow], axis: str, *, has_labels: bool) -> None:
    labels = list(
        dict.fromkeys(axis_text(row, axis) for row in rows if axis_text(row, axis) != "-")
    )
    for index, (name, some) in enumerate(_series(rows, axis).items()):
        if not any(axis_text(row, axis) in labels for row in some):  # without a drafter
            rate = some[0].rate or _predicted(some[0], "rate")
            if rate is not None:
                panel.axhline(
                    rate, color=f"C{index % 10}", linestyle=":", label=name if has_labels else ""
                )
            continue
        some = [row for row in some if axis_text(row, axis) in labels]
        at = [labels.index(axis_text(row, axis)) for row in some]
        color = f"C{index % 10}"
        _curves(
            panel,
            [(x, row.rate) for x, row in zip(at, some, strict=True)],
            [(x, _predicted(row, "rate")) for x, row in zip(at, some, strict=True)],
            color,
            name if has_labels else "",
        )
    panel.set_xticks(range(len(labels)), labels)


def plot_agreement(rows: Sequence[PointRow], file: Path) -> None:
    """Plot the ratio of the measured to the predicted rate of each point."""
    known = [row for row in rows if row.ratio is not None and row.predicted is not None]
    figure, (panel,) = new_figure(1, width=10, height=0.9 + 0.24 * len(known))
    panel.axvspan(1 - _BAND, 1 + _BAND, color="tab:green", alpha=0.12)
    panel.axvline(1.0, color="0.6", linewidth=1)
    for place, row in enumerate(known):
        assert row.predicted is not None
        assert row.ratio is not None
        ratios = [run.rate / row.predicted.rate for run in row.runs]
        panel.plot(ratios, [place] * len(ratios), ".", color="0.6")
        panel.plot([row.ratio], [place], "o", color="C0")
    panel.set_yticks(range(len(known)), [row.point.key for row in known], fontsize=7)
    panel.invert_yaxis()
    panel.set_xlabel("measured / simulated (blue: median; band: within 5 %)")
    save_small_png(figure, file)


def free_axes(rows: Sequence[PointRow]) -> list[str]:
    """Return the axes that have several values and add no devices."""
    names = varying([row.point for row in rows])
    return [name for name in names if name in _NUMERIC]


def _series(rows: Sequence[PointRow], axis: str) -> dict[str, list[PointRow]]:
    names = [name for name in varying([row.point for row in rows]) if name != axis]
    found: dict[str, list[PointRow]] = {}
    for row in rows:
        texts = {name: axis_text(row, name) for name in names}
        parts = [_label(name, text) for name, text in texts.items() if text not in _NOTHING]
        found.setdefault(", ".join(parts) or "all", []).append(row)
    return found


def _label(name: str, text: str) -> str:
    if name in ("mode", "scheme"):
        return text
    words = {"layer_parallel": "layers at a time", "factor": "stragglers x"}
    return f"{words.get(name, name.replace('_', ' '))} {text}"


def _line(panel: Axes, some: Sequence[PointRow], figure: str, color: str, label: str) -> None:
    if figure == "rate":
        for row in some:
            if row.low is not None and row.high is not None:
                panel.plot([row.point.devices] * 2, [row.low, row.high], color=color, linewidth=3)
    _curves(
        panel,
        [(row.point.devices, getattr(row, figure)) for row in some],
        [(row.point.devices, _predicted(row, figure)) for row in some],
        color,
        label,
    )


def _curves(
    panel: Axes,
    measured: Sequence[tuple[int, float | None]],
    predicted: Sequence[tuple[int, float | None]],
    color: str,
    label: str,
) -> None:
    """Plot measured points with marks and predicted ones dashed; label only one of the two."""
    for points, style in ((measured, "o-"), (predicted, "--")):
        known = [(x, y) for x, y in points if y is not None]
        if known:
            panel.plot(
                [x for x, _ in known], [y for _, y in known], style, color=color, label=label
            )
            label = ""


def _predicted(row: PointRow, figure: str) -> float | None:
    if figure == "rate":
        return row.predicted.rate if row.predicted is not None else None
    value: float | None = getattr(row, f"predicted_{figure}")
    return value


def _is_wide(rows: Sequence[PointRow]) -> bool:
    rates = [rate for row in rows for rate in (row.rate, _predicted(row, "rate")) if rate]
    return bool(rates) and max(rates) / min(rates) >= _WIDE


def _logarithmic(panel: Axes) -> None:
    panel.set_yscale("log")
    panel.autoscale(axis="y")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def _device_ticks(panel: Axes, devices: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    shown = [n for n in devices if n & (n - 1) == 0] or list(devices)
    panel.set_xticks(shown, [str(n) for n in shown])
    panel.minorticks_off()


def _finish(figure: Figure, file: Path) -> None:
    for panel in figure.axes:
        panel.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    save_small_png(figure, file)
