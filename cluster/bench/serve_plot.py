"""The picture of `paceline bench serve`: tokens a second, and how long clients wait."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PERCENTILES = ("p50", "p90", "p99")


def plot_serving(rows: Sequence[Mapping[str, object]], file: Path, *, title: str) -> None:
    """Write the runs as a PNG: a bar is a mode's median over its runs, each run a dot.

    Args:
        rows: as `bench serve --json` has them.
        file: where to.
        title: above the picture.
    """
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    speed, first, gap = figure.subplots(1, 3, width_ratios=(1, 2, 2))
    figure.suptitle(title)
    modes = list(dict.fromkeys(str(row["mode"]) for row in rows))
    for index, mode in enumerate(modes):
        runs = [row for row in rows if row["mode"] == mode]
        color = f"C{index}"
        _bar(speed, index, 0.8, [_number(run["tokens_per_s"]) for run in runs], color, mode)
        for axes, key in ((first, "ttft_s"), (gap, "gap_s")):
            width = 0.8 / len(modes)
            for place in range(len(_PERCENTILES)):
                values = [1000 * _number(_items(run[key])[place]) for run in runs]
                at = place - 0.4 + (index + 0.5) * width
                _bar(axes, at, width, values, color, "")
    speed.set_xticks([])
    speed.set_ylabel("tokens/s, all clients")
    for axes, label in ((first, "time to the first token, ms"), (gap, "time between tokens, ms")):
        axes.set_xticks(range(len(_PERCENTILES)), _PERCENTILES)
        axes.set_ylabel(label)
    figure.legend(loc="outside lower center", ncols=len(modes))
    figure.savefig(file, dpi=120)


def _bar(
    axes: Axes, place: float, width: float, values: list[float], color: str, label: str
) -> None:
    axes.bar(place, statistics.median(values), width, color=color, alpha=0.6, label=label)
    axes.plot([place] * len(values), values, ".", color=color)


def _items(value: object) -> Sequence[object]:
    assert isinstance(value, list | tuple)
    return value


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
