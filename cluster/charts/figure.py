"""Figures without a display: made, laid out and written the same way by every chart."""

from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

_DPI = 120
_SMALL_DPI = 90
_COLORS = 64
_BAR_SHARE = 0.8
"""Of the distance between two groups of bars."""


def new_figure(
    num_panels: int,
    *,
    width: float,
    height: float,
    title: str = "",
    width_ratios: tuple[float, ...] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many inches, and its panels side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    panels = figure.subplots(1, num_panels, squeeze=False, width_ratios=width_ratios)
    return figure, list(panels[0])


def new_stack(num_panels: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many inches, and its panels one above the other, with one x axis."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_panels, 1, squeeze=False, sharex=True)
    return figure, list(panels[:, 0])


def bar_in_group(group: int, index: int, num_bars: int) -> tuple[float, float]:
    """Return the center and the width of one bar of a group of bars."""
    width = _BAR_SHARE / num_bars
    return group - _BAR_SHARE / 2 + (index + 0.5) * width, width


def whole_number_ticks(panel: Axes) -> None:
    """Put the ticks of the x axis at whole numbers."""
    panel.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure as a PNG."""
    figure.savefig(file, dpi=_DPI)


def save_small_png(figure: Figure, file: Path) -> None:
    """Write a figure of lines as a PNG with a palette: a third of the size of full color."""
    full_color = BytesIO()
    figure.savefig(full_color, dpi=_SMALL_DPI, format="png")
    with Image.open(full_color) as image:
        image.convert("RGB").quantize(_COLORS).save(file, optimize=True)
