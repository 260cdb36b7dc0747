"""The picture of `paceline bench layer-parallel`: step time, acceptance, speed, against width."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PANELS = (
    ("draft_step_s", 1000.0, "draft step, ms (dashed: foretold)"),
    ("alpha", 1.0, "acceptance"),
    ("speedup", 1.0, "speed against plain decoding"),
)


def plot_layers(rows: Sequence[Mapping[str, object]], file: Path, *, title: str) -> None:
    """Write the comparison as a PNG.

    Args:
        rows: as `bench layer-parallel --json` has them.
        file: where to.
        title: above the picture.
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    sizes = sorted({int(str(row["drafters"])) for row in rows})
    for panel, (name, scale, label) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        for size in sizes:
            some = [row for row in rows if row["drafters"] == size]
            widths = [int(str(row["layer_parallel"])) for row in some]
            values = [float(str(row[name])) * scale for row in some]
            (line,) = panel.plot(widths, values, marker="o", label=f"{size} rank(s)")
            if name == "draft_step_s":
                foretold = [float(str(row["predicted_step_s"])) * scale for row in some]
                panel.plot(widths, foretold, linestyle="--", color=line.get_color())
        panel.set(xlabel="layers at a time", ylabel=label)
        panel.set_ylim(bottom=0)
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].legend()
    figure.savefig(file, dpi=120)
