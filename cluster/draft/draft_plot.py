"""The picture of `paceline draft eval`: acceptance by position, speed-up by category."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_ALL = "all"


def plot_drafters(rows: Sequence[Mapping[str, object]], file: Path, *, title: str) -> None:
    """Write the comparison as a PNG.

    Args:
        rows: as `draft eval --json` has them.
        file: where to.
        title: above the picture.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    acceptance, speed = figure.subplots(1, 2, width_ratios=(1, 2))
    figure.suptitle(title)
    categories = list(_by_category(rows[0]))
    for number, row in enumerate(rows):
        name, figures = str(row["drafter"]), _by_category(row)
        alpha_at = figures[_ALL]["alpha_at"]
        assert isinstance(alpha_at, list)
        acceptance.plot(range(1, len(alpha_at) + 1), alpha_at, marker="o", label=name)
        width = 0.8 / len(rows)
        places = [index - 0.4 + (number + 0.5) * width for index in range(len(categories))]
        heights = [figures[category]["measured_speedup"] for category in categories]
        speed.bar(places, heights, width, label=name)
    acceptance.set(xlabel="draft token", ylabel="acceptance, all before it accepted", ylim=(0, 1))
    acceptance.xaxis.get_major_locator().set_params(integer=True)
    acceptance.legend()
    speed.axhline(1, color="grey", linewidth=1)
    speed.set_xticks(range(len(categories)), categories, rotation=30, ha="right")
    speed.set_ylabel("speed against plain decoding")
    figure.savefig(file, dpi=120)


def _by_category(row: Mapping[str, object]) -> dict[str, dict[str, object]]:
    found = row["by_category"]
    assert isinstance(found, dict)
    return found
