"""The picture of `paceline bench learn`: what is measured, against sequences."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runtime.training.shared_seed.compare import Mark


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
        some = [mark for mark in mine if not mark.measured.get("all") or mark is mine[0]]
        (line,) = axes.plot(*_places(some, what), marker="o", label=method)
        whole = [mark for mark in mine if mark.measured.get("all")]
        axes.plot(
            *_places(whole, what), "s", markersize=9, fillstyle="none", color=line.get_color()
        )
    axes.plot([], [], "s", markersize=9, fillstyle="none", color="gray", label="on all records")
    axes.set(xlabel="sequences that went through the model", ylabel=what)
    axes.legend()
    figure.savefig(file, dpi=120)


def _places(marks: Sequence[Mark], what: str) -> tuple[list[int], list[float]]:
    """Return the points of marks: sequences, and what was measured."""
    return [m.num_rows for m in marks], [m.measured.get(what, m.loss) for m in marks]
