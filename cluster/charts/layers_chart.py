"""The chart of `paceline bench layer-parallel`: step time, acceptance, speed, against width."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.charts.figure import new_figure, save_figure, whole_number_ticks

_PANELS = (
    ("draft_step_s", 1000.0, "draft step, ms (dashed: predicted)"),
    ("alpha", 1.0, "acceptance"),
    ("speedup", 1.0, "speed against plain decoding"),
)


def plot_layers(rows: Sequence[Mapping[str, object]], file: Path, *, title: str) -> None:
    """Write the comparison as a PNG.

    Args:
        rows: as `bench layer-parallel --json` prints them.
        file: the PNG to write.
        title: printed above the panels.
    """
    figure, panels = new_figure(3, width=12, height=4, title=title)
    sizes = sorted({int(str(row["drafter_tp"])) for row in rows})
    for panel, (name, scale, label) in zip(panels, _PANELS, strict=True):
        for size in sizes:
            some = [row for row in rows if row["drafter_tp"] == size]
            widths = [int(str(row["layer_parallel"])) for row in some]
            values = [float(str(row[name])) * scale for row in some]
            (line,) = panel.plot(widths, values, marker="o", label=f"{size} rank(s)")
            if name == "draft_step_s":
                predicted = [float(str(row["predicted_step_s"])) * scale for row in some]
                panel.plot(widths, predicted, linestyle="--", color=line.get_color())
        panel.set(xlabel="layers at a time", ylabel=label)
        panel.set_ylim(bottom=0)
        whole_number_ticks(panel)
    figure.axes[0].legend()
    save_figure(figure, file)
