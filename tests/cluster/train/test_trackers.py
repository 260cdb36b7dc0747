"""Trackers receive a job's numbers where they are installed, and never end a job."""

import json
import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cluster.train.trackers import (
    BackgroundTracker,
    MlflowTracker,
    WandbTracker,
    check_installed,
    dotted,
)
from runtime.training.job.watch_config import WatchConfig
from tests.support.rejection import rejected


class Recorded:
    """A tracker that keeps what it receives; it may fail at a step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.steps: list[tuple[int, Mapping[str, float]]] = []
        self.is_closed = False
        self._fails_at = fails_at

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == self._fails_at:
            raise RuntimeError("the server\nis away")
        self.steps.append((step, values))

    def close(self) -> None:
        self.is_closed = True


def test_every_step_arrives_in_order_and_the_run_is_closed() -> None:
    found = Recorded()
    tracker = BackgroundTracker("Fake", lambda: found)
    for step in range(1, 50):
        tracker.log(step, {"train/loss": 1 / step})
    tracker.close()
    assert [step for step, _ in found.steps] == list(range(1, 50))
    assert found.is_closed


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "paceline.train"]


@pytest.mark.parametrize("kind", ["opens", "logs", "exits"])
def test_a_tracker_that_fails_is_named_once_and_the_job_continues(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("paceline.train"), "propagate", True)

    def open_run() -> Recorded:
        if kind == "exits":
            raise SystemExit(3)
        if kind == "opens":
            raise RuntimeError("the server\nis away")
        return Recorded(fails_at=2)

    tracker = BackgroundTracker("Fake", open_run)
    for step in range(1, 5):
        tracker.log(step, {})
    tracker.close()
    tracker.log(6, {})
    why = "SystemExit: 3" if kind == "exits" else "RuntimeError: the server is away"
    assert warnings_of(caplog) == [f"Fake receives no more numbers ({why}): the job continues"]


def test_a_tracker_that_hangs_does_not_hold_the_job(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("paceline.train"), "propagate", True)
    answered = threading.Event()

    def open_run() -> Recorded:
        answered.wait(60)
        return Recorded()

    tracker = BackgroundTracker("Fake", open_run, close_s=0.01)
    for step in range(10_050):
        tracker.log(step, {})
    tracker.close()
    assert warnings_of(caplog) == [
        "Fake receives no more numbers (10000 steps wait for it): the job continues"
    ]
    answered.set()
    other = BackgroundTracker("Fake", Recorded, close_s=30)
    other.close()
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    check_installed(WatchConfig())
    with rejected(f"watch.{name} is 'mine', and the package {name} is not installed: pip install"):
        check_installed(WatchConfig(**{name: "mine"}))  # type: ignore[arg-type]  # a real field


def test_weights_and_biases_receives_the_settings_and_resumes_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append(("log", (step, values))),
        finish=lambda: calls.append(("finish", None)),
    )

    def init(**settings: Any) -> SimpleNamespace:
        calls.append(("init", settings))
        return run

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]  # a fake of the library
    monkeypatch.setitem(sys.modules, "wandb", module)
    for _ in range(2):
        tracker = WandbTracker("films", tmp_path, {"optimizer.lr": 0.1})
        tracker.log(3, {"train/loss": 0.5})
        tracker.close()
    first, second = (settings for name, settings in calls if name == "init")
    assert first == second
    assert first["config"] == {"optimizer.lr": 0.1}
    assert (first["project"], first["resume"], first["name"]) == ("films", "allow", tmp_path.name)
    assert calls[1:3] == [("log", (3, {"train/loss": 0.5})), ("finish", None)]


class FakeMlflow:
    """The part of mlflow's client that is used, with its answers."""

    def __init__(self) -> None:
        self.experiments: list[str] = []
        self.batches: list[tuple[str, dict[str, Any]]] = []
        self.states: list[str] = []

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        found = name in self.experiments
        return SimpleNamespace(experiment_id=self.experiments.index(name)) if found else None

    def create_experiment(self, name: str) -> int:
        self.experiments.append(name)
        return len(self.experiments) - 1

    def create_run(self, experiment: int, run_name: str) -> SimpleNamespace:
        self.states.append(f"{experiment} {run_name}")
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def update_run(self, run: str, status: str) -> None:
        self.states.append(f"{run} {status}")

    def log_batch(self, run: str, **values: Any) -> None:
        self.batches.append((run, values))

    def set_terminated(self, run: str) -> None:
        self.states.append(f"{run} ended")


def test_mlflow_receives_the_settings_once_and_resumes_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeMlflow()
    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient = lambda: client  # type: ignore[attr-defined]  # a fake of the library
    entities.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]
    entities.Metric = lambda name, value, _, step: (name, value, step)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for step in (3, 4):
        tracker = MlflowTracker("films", tmp_path, {"lora.targets": ["x" * 900]})
        tracker.log(step, {"train/loss": 0.5})
        tracker.close()
    params, *metrics = (values for _, values in client.batches)
    assert [len(value) for _, value in params["params"]] == [500]
    assert [one["metrics"] for one in metrics] == [
        [("train/loss", 0.5, 3)], [("train/loss", 0.5, 4)],
    ]  # fmt: skip
    assert client.states == [f"0 {tmp_path.name}", "r1 ended", "r1 RUNNING", "r1 ended"]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": "r1"}


def test_settings_have_dotted_keys_and_empty_ones_are_left_out() -> None:
    table = {"a": 1, "b": {"c": False, "d": "", "e": {"f": [2]}, "g": None, "h": []}}
    assert dotted(table) == {"a": 1, "b.c": False, "b.e.f": [2]}
