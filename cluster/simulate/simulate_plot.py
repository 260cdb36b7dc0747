"""The picture of `paceline simulate train`: time against redundancy, stragglers by scheme."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parallel.training.gradient_coding.scheme_simulation import SimulatedScheme


def plot_schemes(found: Sequence[SimulatedScheme], file: Path, *, title: str) -> None:
    """Write the comparison as a PNG.

    Args:
        found: one for each scheme.
        file: where to.
        title: above the picture.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    cost, bars = figure.subplots(1, 2)
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
    figure.savefig(file, dpi=120)
