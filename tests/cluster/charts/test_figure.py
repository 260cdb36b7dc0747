"""Every chart is written as a PNG of its size, with one mark or bar for each value."""

from pathlib import Path

import pytest
from PIL import Image

from cluster.charts.drafters_chart import plot_drafters
from cluster.charts.figure import bar_in_group, new_figure, new_stack, save_figure, save_small_png
from cluster.charts.layers_chart import plot_layers
from cluster.charts.learning_chart import plot_curves
from cluster.charts.schemes_chart import plot_schemes
from cluster.charts.serving_chart import plot_serving
from parallel.training.gradient_coding.scheme_simulation import SimulatedScheme
from runtime.training.shared_seed.compare import Mark


def size_of(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return image.size


def test_panels_lie_side_by_side_or_one_above_the_other(tmp_path: Path) -> None:
    figure, (left, right) = new_figure(2, width=6, height=2, title="both")
    left.plot([0, 1])
    right.plot([1, 0])
    save_figure(figure, tmp_path / "wide.png")
    assert size_of(tmp_path / "wide.png") == (720, 240)
    figure, (above, below) = new_stack(2, width=2, height=4)
    above.plot([0, 5], [0, 1])
    assert below.get_xlim() == above.get_xlim()
    save_figure(figure, tmp_path / "high.png")
    assert size_of(tmp_path / "high.png") == (240, 480)


def test_a_small_png_has_a_palette_and_fewer_bytes(tmp_path: Path) -> None:
    figure, (panel,) = new_figure(1, width=4, height=3)
    panel.plot([0, 1, 0])
    save_figure(figure, tmp_path / "full.png")
    save_small_png(figure, tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as image:
        assert image.mode == "P"
    assert (tmp_path / "small.png").stat().st_size < (tmp_path / "full.png").stat().st_size / 2


def test_the_bars_of_a_group_touch_and_are_centered_on_it() -> None:
    bars = [bar_in_group(2, index, 4) for index in range(4)]
    assert [center for center, _ in bars] == pytest.approx([1.7, 1.9, 2.1, 2.3])
    assert {round(width, 9) for _, width in bars} == {0.2}


def test_drafters(tmp_path: Path) -> None:
    figures = {"alpha_at": [0.9, 0.8], "measured_speedup": 1.5}
    rows = [{"drafter": name, "by_category": {"all": figures, "code": figures}} for name in "ab"]
    plot_drafters(rows, tmp_path / "a.png", title="drafters")
    assert size_of(tmp_path / "a.png") == (1440, 576)


def test_layers(tmp_path: Path) -> None:
    rows = [
        {
            "drafter_tp": ranks, "layer_parallel": width, "draft_step_s": 0.01 / width,
            "predicted_step_s": 0.009 / width, "alpha": 0.8, "speedup": 1.2,
        }
        for ranks in (1, 2) for width in (1, 2)
    ]  # fmt: skip
    plot_layers(rows, tmp_path / "a.png", title="widths")
    assert size_of(tmp_path / "a.png") == (1440, 480)


@pytest.mark.parametrize("marks", [0, 3])
def test_learning(tmp_path: Path, marks: int) -> None:
    curve = [
        Mark(method="lora", step=n, num_rows=10 * n, loss=1.0, measured={"accuracy": 0.5, "all": n})
        for n in range(marks)
    ]
    plot_curves(curve, tmp_path / "a.png", title="curves")
    assert size_of(tmp_path / "a.png") == (960, 576)


def test_schemes(tmp_path: Path) -> None:
    found = [
        SimulatedScheme(
            scheme=name, load=1.0, num_jobs=2, seconds=3.0, num_waits=0, stragglers=1.0, work=1.0,
            is_exact=name != "drop-1",
        )
        for name in ("uncoded", "drop-1")
    ]  # fmt: skip
    plot_schemes(found, tmp_path / "a.png", title="schemes")
    assert size_of(tmp_path / "a.png") == (1440, 576)


def test_serving(tmp_path: Path) -> None:
    rows = [
        {"mode": mode, "tokens_per_s": 10, "ttft_s": [0.1, 0.2, 0.3], "gap_s": [0.01, 0.02, 0.03]}
        for mode in ("off", "pearl", "pearl")
    ]
    plot_serving(rows, tmp_path / "a.png", title="serving")
    assert size_of(tmp_path / "a.png") == (1560, 528)
