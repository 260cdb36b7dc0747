"""The picture of `paceline simulate train`: time against redundancy, stragglers by scheme."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parallel.training.coding.simulate import Simulated


def plot_schemes(found: Sequence[Simulated], file: Path, *, title: str) -> None:
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
    for one in found:
        marker = "o" if one.is_exact else "x"
        each = one.seconds / one.num_jobs
        cost.scatter([one.work], [each], marker=marker)
        cost.annotate(one.scheme, (one.work, each), xytext=(4, 4), textcoords="offset points")
    cost.set(xlabel="work done, 1 is no redundancy (x: not exact)", ylabel="time a job")
    cost.set_ylim(bottom=0)
    cost.margins(x=0.2)
    names = [one.scheme for one in found]
    bars.bar(names, [one.stragglers for one in found], color="tab:grey")
    bars.set_ylabel("workers not waited for, a round")
    bars.tick_params(axis="x", rotation=40)
    figure.savefig(file, dpi=120)
