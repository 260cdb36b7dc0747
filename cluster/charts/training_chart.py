"""The chart of a fine-tuning job: losses and measured values against steps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.charts.figure import new_stack, save_figure, whole_number_ticks

_LOSSES = ("loss", "eval_loss")
_MEASURED = ("accuracy", "margin", "reward")


def plot_training(lines: Sequence[Mapping[str, float | None]], file: Path) -> None:
    """Write the chart as a PNG.

    Args:
        lines: of metrics.jsonl; a value that was not finite is None.
        file: the PNG to write.
    """
    measured = [name for name in _MEASURED if any(name in line for line in lines)]
    figure, panels = new_stack(2 + len(measured), width=8, height=3 + 2 * len(measured) + 2)
    for name in _LOSSES:
        steps, values = _curve(lines, name)
        if steps:
            panels[0].plot(steps, values, marker="o" if name == "eval_loss" else "", label=name)
    panels[0].legend()
    panels[0].set_ylabel("loss")
    panels[1].plot(*_curve(lines, "gradient_norm"))
    panels[1].set_ylabel("gradient norm")
    for panel, name in zip(panels[2:], measured, strict=True):
        panel.plot(*_curve(lines, name), marker="o")
        panel.set_ylabel(name)
    panels[-1].set_xlabel("step")
    whole_number_ticks(panels[-1])
    save_figure(figure, file)


def _curve(
    lines: Sequence[Mapping[str, float | None]], name: str
) -> tuple[list[float], list[float]]:
    """Return the steps that have a finite value of a name, and these values."""
    found = [
        (step, value)
        for line in lines
        if (value := line.get(name)) is not None
        and math.isfinite(value)
        and (step := line["step"]) is not None
    ]
    return [step for step, _ in found], [value for _, value in found]
