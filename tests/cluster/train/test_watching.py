"""A job's event files and chart hold what it reported, and cannot end it."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from cluster.train.sample_answers import ANSWERS, SampleAnswer
from cluster.train.watching import CHART, EVENTS, Watch
from runtime.training.job.job_config import TrainConfig
from runtime.training.job.watch_config import WatchConfig
from runtime.training.job_checkpoint import JobFiles
from runtime.training.training_step import StepReport
from tests.support.log_records import records_of


def report(step: int, loss: float = 2.0) -> StepReport:
    return StepReport(
        step=step, loss=loss, lr=1e-3, gradient_norm=1.5, num_tokens=7, seconds=0.25,
        num_repeated=1, num_stragglers=0, num_lost=0,
    )  # fmt: skip


def shown(*, tensorboard: bool = True, chart: bool = True) -> TrainConfig:
    return TrainConfig(watch=WatchConfig(tensorboard=tensorboard, chart=chart))


def scalars(directory: Path) -> list[tuple[int, str, float]]:
    """Return the scalars of all event files: TFRecords of a length, its check, data, its check."""
    found = []
    for file in sorted(directory.glob("events.*")):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            data = data[16 + size :]
    return found


def test_event_files_hold_every_step_and_what_was_measured(tmp_path: Path) -> None:
    watch = Watch(JobFiles(tmp_path, TrainConfig()), TrainConfig(), first_step=0)
    watch.step(report(1), {})
    watch.step(report(2, float("nan")), {"accuracy": 0.5})
    watch.close()
    found = {(step, tag): value for step, tag, value in scalars(tmp_path / EVENTS)}
    assert found[1, "train/loss"] == 2.0
    assert found[1, "workers/step_seconds"] == 0.25
    assert found[2, "eval/accuracy"] == 0.5
    assert (2, "train/loss") not in found


def test_the_chart_shows_a_job_with_and_without_measurements(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, TrainConfig())
    watch = Watch(files, shown(tensorboard=False), first_step=0)
    for step in range(1, 5):
        loss = float("inf") if step == 3 else 1.0 / step
        files.add_metrics(report(step, loss), {"accuracy": 0.5} if step == 4 else {})
    watch.chart()
    with Image.open(tmp_path / CHART) as image:
        assert image.width > image.height > 400
    assert not (tmp_path / EVENTS).exists()
    assert not list(tmp_path.glob("*.new*"))


def test_files_that_cannot_be_written_end_no_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / EVENTS).write_text("in the way")
    (tmp_path / CHART).mkdir()
    files = JobFiles(tmp_path, TrainConfig())
    watch = Watch(files, TrainConfig(), first_step=0)
    watch.step(report(1), {})
    files.add_metrics(report(1), {})
    watch.chart()
    watch.close()
    messages = [record.message for record in records_of(caplog, "paceline.train")]
    assert [message.partition(" in ")[0] for message in messages] == ["TensorBoard's files", CHART]


def answer(step: int) -> SampleAnswer:
    return SampleAnswer(step=step, prompt="One and", answer=f"two {step}", wanted="two")


def test_answers_are_kept_and_those_after_the_last_state_are_replaced(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, TrainConfig())
    watch = Watch(files, TrainConfig(), first_step=0)
    for step in (5, 10):
        watch.answers([answer(step)])
    watch.answers([])
    watch.close()
    found = [(step, tag) for step, tag, _ in scalars(tmp_path / EVENTS)]
    assert found == [(step, "samples/0/text_summary") for step in (5, 10)]
    again = Watch(files, TrainConfig(), first_step=7)
    again.answers([answer(15)])
    again.close()
    lines = [json.loads(line) for line in (tmp_path / ANSWERS).read_text().splitlines()]
    assert [(line["step"], line["answer"]) for line in lines] == [(5, "two 5"), (15, "two 15")]


class Received:
    """A tracker that keeps what it receives."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, Mapping[str, float]]] = []
        self.is_closed = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append((step, values))

    def close(self) -> None:
        self.is_closed = True


def test_trackers_receive_the_numbers_that_are_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = Received()
    monkeypatch.setattr("cluster.train.watching.open_trackers", lambda *_: [received])
    watch = Watch(JobFiles(tmp_path, TrainConfig()), shown(tensorboard=False), first_step=0)
    watch.step(report(1, float("nan")), {"accuracy": 0.5})
    watch.close()
    ((step, values),) = received.steps
    assert step == 1
    assert values["eval/accuracy"] == 0.5
    assert "train/loss" not in values
    assert values["train/gradient_norm"] == 1.5
    assert received.is_closed


class FullDisk:
    """A file to which nothing can be written."""

    def write(self, data: bytes) -> None:
        raise OSError(28, "No space left on device", len(data))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_full_disk_ends_the_event_files_and_not_the_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(JobFiles(tmp_path, TrainConfig()), TrainConfig(), first_step=0)
    watch.step(report(1), {})
    writer = watch._writer
    assert writer is not None
    writer._py_recordio_writer._writer.close()
    writer._py_recordio_writer._writer = FullDisk()
    for step in range(2, 40):
        watch.step(report(step), {})
    watch.close()
    (record,) = records_of(caplog, "paceline.train")
    assert "could not be written ([Errno 28] No space left on device" in record.message


def test_nothing_is_shown_where_it_is_switched_off(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, TrainConfig())
    watch = Watch(files, shown(tensorboard=False, chart=False), first_step=0)
    files.add_metrics(report(1), {})
    watch.step(report(1), {})
    watch.chart()
    watch.close()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
