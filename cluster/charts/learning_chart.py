"""The chart of `paceline bench learn`: the measured value against sequences."""

from collections.abc import Sequence
from pathlib import Path

from cluster.charts.figure import new_figure, save_figure
from runtime.training.shared_seed.compare import Mark


def plot_curves(marks: Sequence[Mark], file: Path, *, title: str) -> None:
    """Write the curves as a PNG.

    Args:
        marks: of all methods.
        file: the PNG to write.
        title: printed above the panel.
    """
    figure, (axes,) = new_figure(1, width=8, height=4.8, title=title)
    what = next((k for k in marks[0].measured if k != "all"), "loss") if marks else ""
    for method in dict.fromkeys(mark.method for mark in marks):
        mine = [mark for mark in marks if mark.method == method]
        some = [mark for mark in mine if not mark.measured.get("all") or mark is mine[0]]
        (line,) = axes.plot(*_coordinates(some, what), marker="o", label=method)
        whole = [mark for mark in mine if mark.measured.get("all")]
        axes.plot(
            *_coordinates(whole, what), "s", markersize=9, fillstyle="none", color=line.get_color()
        )
    axes.plot([], [], "s", markersize=9, fillstyle="none", color="gray", label="on all records")
    axes.set(xlabel="sequences that went through the model", ylabel=what)
    axes.legend()
    save_figure(figure, file)


def _coordinates(marks: Sequence[Mark], what: str) -> tuple[list[int], list[float]]:
    """Return the coordinates of marks: sequences, and the measured value."""
    return [m.num_rows for m in marks], [m.measured.get(what, m.loss) for m in marks]
