"""The chart of `paceline bench serve`: tokens per second, and how long clients wait."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from cluster.charts.figure import bar_in_group, new_figure, save_figure

_PERCENTILES = ("p50", "p90", "p99")


def plot_serving(rows: Sequence[Mapping[str, object]], file: Path, *, title: str) -> None:
    """Write the runs as a PNG: a bar is the median of a mode's runs, a dot one run.

    Args:
        rows: as `bench serve --json` prints them.
        file: the PNG to write.
        title: printed above the panels.
    """
    figure, (speed, first, gap) = new_figure(
        3, width=13, height=4.4, title=title, width_ratios=(1, 2, 2)
    )
    modes = list(dict.fromkeys(str(row["mode"]) for row in rows))
    for index, mode in enumerate(modes):
        runs = [row for row in rows if row["mode"] == mode]
        color = f"C{index}"
        _bar(speed, index, 0.8, [_number(run["tokens_per_s"]) for run in runs], color, mode)
        for axes, key in ((first, "ttft_s"), (gap, "gap_s")):
            for group in range(len(_PERCENTILES)):
                values = [1000 * _number(_items(run[key])[group]) for run in runs]
                center, width = bar_in_group(group, index, len(modes))
                _bar(axes, center, width, values, color, "")
    speed.set_xticks([])
    speed.set_ylabel("tokens/s, all clients")
    for axes, label in ((first, "time to the first token, ms"), (gap, "time between tokens, ms")):
        axes.set_xticks(range(len(_PERCENTILES)), _PERCENTILES)
        axes.set_ylabel(label)
    figure.legend(loc="outside lower center", ncols=len(modes))
    save_figure(figure, file)


def _bar(
    axes: Axes, center: float, width: float, values: list[float], color: str, label: str
) -> None:
    axes.bar(center, statistics.median(values), width, color=color, alpha=0.6, label=label)
    axes.plot([center] * len(values), values, ".", color=color)


def _items(value: object) -> Sequence[object]:
    assert isinstance(value, list | tuple)
    return value


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
