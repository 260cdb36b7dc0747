"""Timelines compare modes with the same ranks over the same length of time."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cluster.experiment.result_rows import PointRow
from cluster.experiment.store import MeasuredPoint, Store
from cluster.experiment.sweep_points import KEY_LEGEND
from cluster.experiment.timeline_chart import middle, plot_timelines, stretch_s
from cluster.experiment.timelines import comparable_timelines
from runtime.timeline import PhaseSpan, SpanKind
from tests.support.experiment_files import SMALL, generate_points, loaded


def spans(step_s: float, num: int = 40) -> list[PhaseSpan]:
    """A run that alternates forwards and drafts."""
    found = []
    for n in range(num):
        start_s = 2 * n * step_s
        found.append(PhaseSpan(SpanKind.VERIFY, start_s, start_s + step_s, 4))
        found.append(PhaseSpan(SpanKind.DRAFT, start_s + step_s, start_s + 2 * step_s, 3))
    return found


def row(point: object, rate: float) -> PointRow:
    run = MeasuredPoint(key=point.key, repeat=0, rate=rate, figures={})  # type: ignore[attr-defined]
    return PointRow(point=point, predicted=None, runs=(run,))  # type: ignore[arg-type]


def test_points_that_are_shown_together_differ_only_in_the_mode(tmp_path: Path) -> None:
    experiment = loaded(tmp_path, SMALL.replace("tp = [1, 2]", "tp = [2, 4]"))
    points = [point for point in generate_points(experiment) if point.drafter_tp]
    best = {(2, "speculative"): 90.0, (2, "pearl"): 30.0, (4, "speculative"): 20.0}
    rows = [row(point, best.get((point.tp, point.mode), 100.0)) for point in points]
    with Store(tmp_path / "results") as store:
        for point in points:
            store.keep_timeline(point.key, spans(0.01))
        # Each mode's best is at another tp: tp2-speculative with 30 a device, tp4-pearl with 20.
        found = comparable_timelines(store.directory, experiment, rows)
    assert sorted(found) == ["tp2-d1-g3-pearl", "tp2-d1-g3-speculative"]


def test_a_group_with_all_spans_is_preferred_to_one_without_them(tmp_path: Path) -> None:
    experiment = loaded(tmp_path, SMALL)
    points = [point for point in generate_points(experiment) if point.drafter_tp]
    with Store(tmp_path / "results") as store:
        for point in points:
            if (point.tp, point.mode) != (2, "pearl"):
                store.keep_timeline(point.key, spans(0.01))
        rows = [row(point, 100.0 * point.tp) for point in points]
        found = comparable_timelines(store.directory, experiment, rows)
    assert {key.partition("-")[0] for key in found} == {"tp1"}
    assert len(found) == 2


def test_all_stretches_are_as_long_as_the_shortest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = spans(0.01), spans(0.05)
    assert stretch_s(quick) == pytest.approx(0.27)
    shown = middle(slow, 0.27)
    start_s = min(span.start_s for span in shown)
    assert start_s == pytest.approx(13 * 0.1)
    assert max(span.end_s for span in shown) == pytest.approx(start_s + 0.27)

    drawn: list[Figure] = []
    monkeypatch.setattr(
        "cluster.experiment.timeline_chart.save_small_png", lambda figure, _: drawn.append(figure)
    )
    plot_timelines({"tp2-d1-g3-speculative": quick, "tp2-d1-g3-pearl": slow}, tmp_path / "x.png")
    (figure,) = drawn
    assert [panel.get_xlim()[1] for panel in figure.axes] == pytest.approx([270, 270])
    assert KEY_LEGEND in figure.axes[-1].get_xlabel()
