"""The status of a job, once or after every step until it ends."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.options.train_options import TrainStatusOptions
from cluster.train.job_control import show_status
from runtime.training.job.config_file import keep_config
from runtime.training.job.ending_config import EarlyStopConfig
from runtime.training.job.job_config import DataConfig, OptimizerConfig, TrainConfig
from runtime.training.job.job_lock import JobLock
from runtime.training.job_checkpoint import JobFiles
from runtime.training.training_step import StepReport

STEPS = 4


def config(out: Path) -> TrainConfig:
    return TrainConfig(
        model="m",
        out=str(out),
        data=DataConfig(train="t.jsonl", eval="e.jsonl"),
        optimizer=OptimizerConfig(steps=STEPS),
    )


def add_step(out: Path, step: int, **measured: float) -> None:
    report = StepReport(
        step=step, loss=2.0 - step / 10, lr=1e-3, gradient_norm=1.5, num_tokens=7, seconds=30.0,
        num_repeated=1, num_stragglers=0, num_lost=0,
    )  # fmt: skip
    JobFiles(out, config(out)).add_metrics(report, measured)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    keep_config(config(tmp_path))
    add_step(tmp_path, 1, eval_loss=0.5)
    add_step(tmp_path, 2, eval_loss=0.7)
    return tmp_path


def status(job: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert show_status(TrainStatusOptions(directory=job, json=True)) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_status_has_the_last_step_the_best_one_and_the_time_left(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = status(job, capsys)
    assert (found["step"], found["steps"], found["done"], found["running"]) == (2, 4, False, False)
    assert (found["best_step"], found["best_eval_loss"]) == (1, 0.5)
    assert found["left_s"] == 60.0
    add_step(job, 3)
    add_step(job, 4)
    found = status(job, capsys)
    assert (found["done"], found["left_s"]) == (True, 0.0)


def test_a_job_that_stopped_early_is_done_once_its_result_is_written(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_config(replace(config(job), early_stop=EarlyStopConfig(patience=1)))
    assert not status(job, capsys)["done"]
    (job / "final").mkdir()
    assert status(job, capsys)["done"]


def test_a_running_job_is_shown_after_every_step_until_it_ends(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = JobLock(job)
    lock.__enter__()
    looks = []

    def sleep(_: float) -> None:
        """Make a step at every second look, and end after the last."""
        looks.append(1)
        if len(looks) % 2 == 0 and len(looks) <= 4:
            add_step(job, 2 + len(looks) // 2)
        if len(looks) == 6:
            lock.__exit__(None, None, None)

    assert show_status(TrainStatusOptions(directory=job, watch=True), sleep=sleep) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line.removeprefix(f"{job}: ") for line in lines if line.startswith(str(job))]
    assert shown[0] == "step 2 of 4, about 0:01:00 left: loss 1.8, eval_loss 0.7"
    assert [line.partition(" of")[0] for line in shown] == ["step 2", "step 3", "step 4", "step 4"]
    assert shown[-1] == "step 4 of 4, done"


def test_a_job_that_does_not_run_is_shown_once(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_status(TrainStatusOptions(directory=job, watch=True), sleep=lambda _: None) == 0
    out = capsys.readouterr().out
    assert out.count("step 2 of 4, not running") == 1
    assert "resume it with paceline train resume" in out
