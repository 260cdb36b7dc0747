"""The chart of `paceline draft eval`: acceptance by position, speed-up by category."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.charts.figure import bar_in_group, new_figure, save_figure, whole_number_ticks

_ALL = "all"


def plot_drafters(rows: Sequence[Mapping[str, object]], file: Path, *, title: str) -> None:
    """Write the comparison as a PNG.

    Args:
        rows: as `draft eval --json` prints them.
        file: the PNG to write.
        title: printed above the panels.
    """
    figure, (acceptance, speed) = new_figure(
        2, width=12, height=4.8, title=title, width_ratios=(1, 2)
    )
    categories = list(_by_category(rows[0]))
    for number, row in enumerate(rows):
        name, figures = str(row["drafter"]), _by_category(row)
        alpha_at = figures[_ALL]["alpha_at"]
        assert isinstance(alpha_at, list)
        acceptance.plot(range(1, len(alpha_at) + 1), alpha_at, marker="o", label=name)
        bars = [bar_in_group(index, number, len(rows)) for index in range(len(categories))]
        heights = [float(str(figures[category]["measured_speedup"])) for category in categories]
        speed.bar([center for center, _ in bars], heights, bars[0][1], label=name)
    acceptance.set(xlabel="draft token", ylabel="acceptance, all before it accepted", ylim=(0, 1))
    whole_number_ticks(acceptance)
    acceptance.legend()
    speed.axhline(1, color="grey", linewidth=1)
    speed.set_xticks(range(len(categories)), categories, rotation=30, ha="right")
    speed.set_ylabel("speed against plain decoding")
    save_figure(figure, file)


def _by_category(row: Mapping[str, object]) -> dict[str, dict[str, object]]:
    found = row["by_category"]
    assert isinstance(found, dict)
    return found
