"""The chart of `paceline simulate train`: time against redundancy, stragglers by scheme."""

from collections.abc import Sequence
from pathlib import Path

from cluster.charts.figure import new_figure, save_figure
from parallel.training.gradient_coding.scheme_simulation import SimulatedScheme


def plot_schemes(found: Sequence[SimulatedScheme], file: Path, *, title: str) -> None:
    """Write the comparison as a PNG.

    Args:
        found: one for each scheme.
        file: the PNG to write.
        title: printed above the panels.
    """
    figure, (cost, bars) = new_figure(2, width=12, height=4.8, title=title)
    colors = [f"C{number % 10}" for number in range(len(found))]
    for one, color in zip(found, colors, strict=True):
        label = one.scheme if one.is_exact else f"{one.scheme} (not exact)"
        marker = "o" if one.is_exact else "x"
        cost.scatter(
            [one.work], [one.seconds / one.num_jobs], color=color, marker=marker, s=70, label=label
        )
    cost.set(xlabel="work done; 1 is no redundancy", ylabel="time a job")
    cost.set_ylim(bottom=0)
    cost.legend()
    bars.bar([one.scheme for one in found], [one.stragglers for one in found], color=colors)
    bars.set_ylabel("stragglers a round that were not waited for")
    bars.tick_params(axis="x", rotation=40)
    save_figure(figure, file)
