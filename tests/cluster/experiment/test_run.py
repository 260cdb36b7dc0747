"""Interrupted runs that resume, points that fail, and the report at the end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cluster.experiment import experiment_plan as plan
from cluster.experiment import experiment_report as report
from cluster.experiment.experiment_report import PAGE
from cluster.experiment.generation_points import GenerateBench
from cluster.experiment.run import run
from cluster.experiment.store import ENVIRONMENT, RESULTS, MeasuredPoint, Store, read_results
from cluster.experiment.sweep_points import GeneratePoint
from cluster.options.experiment_options import (
    ExperimentOptions,
    ExperimentPlanOptions,
    ExperimentReportOptions,
)
from runtime.errors import ConfigError, PeerLost
from runtime.timeline import PhaseSpan, SpanKind
from tests.support.experiment_files import SMALL, TRAIN, loaded, written

SPANS = [
    PhaseSpan(SpanKind.VERIFY, 1.0, 1.02, 1),
    PhaseSpan(SpanKind.DRAFT, 1.0, 1.01, 3),
    PhaseSpan(SpanKind.WAIT, 1.02, 1.03, 0),
    PhaseSpan(SpanKind.VERIFY, 1.03, 1.05, 4),
]


class FakeMeasuring:
    """Replaces real actors: counts the measurements, and fails or stops at chosen points."""

    def __init__(self) -> None:
        self.measured: list[tuple[str, int]] = []
        self.fail_at = ""
        self.cut_after = 1000

    def measure(self, point: GeneratePoint, repeat: int) -> tuple[MeasuredPoint, list[PhaseSpan]]:
        if len(self.measured) == self.cut_after:
            raise KeyboardInterrupt
        self.measured.append((point.key, repeat))
        if point.key == self.fail_at:
            raise PeerLost("target rank 1 died")
        rate = 10.0 * point.devices + repeat
        figures = {"overlap": 0.5, "tokens_per_round": 2.0}
        return MeasuredPoint(key=point.key, repeat=repeat, rate=rate, figures=figures), SPANS


@contextmanager
def no_ray(*_: object, **__: object) -> Iterator[None]:
    yield


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> FakeMeasuring:
    fake = FakeMeasuring()
    monkeypatch.setattr("cluster.experiment.run.RaySession", no_ray)
    monkeypatch.setattr(GenerateBench, "measure", lambda _, *args: fake.measure(*args))
    return fake


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the plots, which take longer than everything else."""
    monkeypatch.setattr("cluster.experiment.run.write_report", lambda directory, *_: directory)


@pytest.mark.usefixtures("no_report")
def test_repeats_are_interleaved_and_deployments_are_started_once(
    tmp_path: Path, measuring: FakeMeasuring
) -> None:
    assert run(ExperimentOptions(file=written(tmp_path, SMALL))) == 0
    keys = [key for key, _ in measuring.measured]
    assert len(keys) == 12
    tp1 = "tp1-d1-g3"
    assert measuring.measured[2:6] == [
        (f"{tp1}-speculative", 0),
        (f"{tp1}-pearl", 0),
        (f"{tp1}-speculative", 1),
        (f"{tp1}-pearl", 1),
    ]
    text = SMALL.replace("repeats = 2", 'repeats = 2\norder = "sweep"').replace("results", "other")
    measuring.measured.clear()
    run(ExperimentOptions(file=written(tmp_path, text)))
    assert [repeat for _, repeat in measuring.measured] == [0] * 6 + [1] * 6


@pytest.mark.usefixtures("no_report")
def test_an_interrupted_run_resumes_where_it_stopped(
    tmp_path: Path, measuring: FakeMeasuring
) -> None:
    options = ExperimentOptions(file=written(tmp_path, SMALL))
    measuring.cut_after = 5
    with pytest.raises(KeyboardInterrupt):
        run(options)
    with (tmp_path / "results" / RESULTS).open("a") as file:
        file.write('{"key": "tp2')  # the state after a kill in the middle of a line
    measuring.cut_after = 1000
    assert run(options) == 0
    assert len(measuring.measured) == len(set(measuring.measured)) == 12
    assert len(read_results(tmp_path / "results")) == 12
    lines = (tmp_path / "results" / ENVIRONMENT).read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["packages"]["torch"]
    assert run(options) == 0  # nothing is left to do
    assert len(measuring.measured) == 12


@pytest.mark.usefixtures("no_report")
def test_a_sweep_may_grow_but_measured_settings_may_not_change(
    tmp_path: Path, measuring: FakeMeasuring
) -> None:
    run(ExperimentOptions(file=written(tmp_path, SMALL)))
    grown = SMALL.replace("tp = [1, 2]", "tp = [1, 2, 4]")
    run(ExperimentOptions(file=written(tmp_path, grown)))
    assert len(measuring.measured) == len(set(measuring.measured)) == 18
    other = SMALL.replace("alpha = 0.8", "alpha = 0.7")
    with pytest.raises(ConfigError, match=r"devices is {'alpha': 0.7}, .* name another out"):
        run(ExperimentOptions(file=written(tmp_path, other)))


def test_keys_that_only_the_simulator_reads_may_change(tmp_path: Path) -> None:
    experiment = loaded(tmp_path, TRAIN)
    fitted = loaded(tmp_path, TRAIN.replace("[train]", '[train]\nturn = "4ms"'))
    other = loaded(tmp_path, TRAIN.replace("[train]", "[train]\npatience = 0.5"))
    assert fitted.train is not None
    assert fitted.train.turn == 0.004
    with Store(tmp_path / "results") as store:
        store.keep_config(experiment)
        store.keep(MeasuredPoint(key="w2-pull-1x", repeat=0, rate=1.0, wall_s=1.0, figures={}))
        store.keep_config(fitted)
        with pytest.raises(ConfigError, match=r"train is {'patience': 0.5}, but the results in"):
            store.keep_config(other)


def test_a_failed_point_is_recorded_and_the_others_continue(
    tmp_path: Path, measuring: FakeMeasuring
) -> None:
    options = ExperimentOptions(file=written(tmp_path, SMALL))
    measuring.fail_at = "tp2-d1-g3-pearl"
    assert run(options) == 1
    assert len(measuring.measured) == 12
    failed = [one for one in read_results(tmp_path / "results") if one.error]
    assert {one.key for one in failed} == {measuring.fail_at}
    assert failed[0].error == "PeerLost: target rank 1 died"
    assert "PeerLost: target rank 1 died" in (tmp_path / "results" / PAGE).read_text()
    run(options)
    assert len(measuring.measured) == 12  # its failure is recorded
    measuring.fail_at = ""
    assert run(ExperimentOptions(file=options.file, retry=True)) == 0
    assert measuring.measured[12:] == [("tp2-d1-g3-pearl", n) for n in (0, 1)]


def test_a_report_is_rebuilt_from_the_results_directory(
    tmp_path: Path, measuring: FakeMeasuring, capsys: pytest.CaptureFixture[str]
) -> None:
    run(ExperimentOptions(file=written(tmp_path, SMALL), json=True))
    assert measuring.measured
    before = json.loads(capsys.readouterr().out)["rows"]
    directory = tmp_path / "results"
    (directory / PAGE).unlink()
    assert report.run(ExperimentReportOptions(directory=directory, json=True)) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == before
    assert (directory / PAGE).exists()
    with pytest.raises(ConfigError, match="holds no experiment"):
        report.run(ExperimentReportOptions(directory=tmp_path))


def test_a_plan_needs_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (SMALL, TRAIN.replace("factor = [1, 3]", "factor = [1, inf]")):
        file = written(tmp_path, text.replace("results", f"plan-{len(text)}"))
        assert plan.run(ExperimentPlanOptions(file=file, json=True)) == 0
        assert len(json.loads(capsys.readouterr().out)) >= 4
        directory = tmp_path / f"plan-{len(text)}"
        assert report.run(ExperimentReportOptions(directory=directory)) == 0
        capsys.readouterr()
        assert "0 measured" in (directory / PAGE).read_text()


def test_two_runs_do_not_write_to_one_directory(tmp_path: Path) -> None:
    experiment = loaded(tmp_path)
    with (
        Store(Path(experiment.out)),
        pytest.raises(ConfigError, match="another run writes to"),
        Store(Path(experiment.out)),
    ):
        pass


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.num_cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.sources += [str(found[name]) for name in ("src", "href") if name in found]
        self.num_cells += tag == "td"


def test_the_report_is_one_page_that_holds_its_pictures(
    tmp_path: Path, measuring: FakeMeasuring, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ExperimentOptions(file=written(tmp_path, SMALL), json=True)) == 0
    assert measuring.measured
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["devices"] for row in rows] == [1, 2, 2, 2, 3, 3]
    assert rows[4]["rate"] == 30.5
    assert rows[4]["speedup"] == pytest.approx(30.5 / 10.5)
    assert rows[4]["ratio_to_predicted"] == pytest.approx(30.5 / rows[4]["predicted_rate"])
    pictures = ["agreement.png", "scaling.png", "timeline.png"]
    assert sorted(file.name for file in (tmp_path / "results").glob("*.png")) == pictures
    page = Page()
    page.feed((tmp_path / "results" / PAGE).read_text())
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert page.num_cells % 6 == 0
    assert page.num_cells > 60
