"""The picture of `paceline bench learn`: what is measured, against sequences."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runtime.training.seedlog.compare import Mark


def plot_curves(marks: Sequence[Mark], file: Path, *, title: str) -> None:
    """Write the curves as a PNG.

    Args:
        marks: of all methods.
        file: where to.
        title: above the picture.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(1, 1)
    what = next((k for k in marks[0].measured if k != "all"), "loss") if marks else ""
    for method in dict.fromkeys(mark.method for mark in marks):
        mine = [mark for mark in marks if mark.method == method]
        axes.plot(
            [mark.num_rows for mark in mine],
            [mark.measured.get(what, mark.loss) for mark in mine],
            marker="o",
            label=method,
        )
    axes.set(xlabel="sequences that went through the model", ylabel=what)
    axes.legend()
    figure.savefig(file, dpi=120)
