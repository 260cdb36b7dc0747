"""What shows a fine-tuning job beside its metrics: event files, a chart, answers, trackers."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import directory_check
from tensorboardX.summary import scalar, text

from cluster.charts.training_chart import plot_training
from cluster.train.sample_answers import ANSWERS, SampleAnswer, add_answers, cut_answers
from cluster.train.trackers import dotted, open_trackers
from runtime.training.job.job_config import TrainConfig
from runtime.training.job_checkpoint import JobFiles
from runtime.training.training_step import StepReport

_LOG = logging.getLogger("paceline.train")
EVENTS, CHART = "tensorboard", "loss.png"
_SCALARS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "gradient_norm": "train/gradient_norm",
    "num_tokens": "train/num_tokens",
    "seconds": "workers/step_seconds",
    "num_stragglers": "workers/num_stragglers",
    "num_repeated": "workers/num_repeated",
    "num_lost": "workers/num_lost",
}
"""A step's numbers, by their names in TensorBoard."""
_START = SessionLog(status=SessionLog.START)
"""Makes TensorBoard drop what an earlier run showed from the event's step on."""


class Watch:
    """Shows one model's training; a job continues whatever happens to it."""

    def __init__(self, files: JobFiles, job: TrainConfig, *, first_step: int) -> None:
        """Show a model from its next step; what an earlier run showed after it is dropped."""
        config = job.watch
        self._files = files
        self._has_chart = config.chart
        self._first_step = first_step
        self._is_off = not config.tensorboard
        self._trackers = open_trackers(config, files.directory, dotted(asdict(job)))
        self._has_answers = False
        # Not its SummaryWriter: that one's thread ends at a full disk, and its queue then blocks.
        self._writer: EventsWriter | None = None

    def step(self, report: StepReport, measured: Mapping[str, float]) -> None:
        """Show a step, and what was measured after it."""
        values = asdict(report)
        named = {name: float(values[field]) for field, name in _SCALARS.items()}
        named |= {f"eval/{field}": value for field, value in measured.items()}
        finite = {name: value for name, value in named.items() if math.isfinite(value)}
        self._write(
            [
                Event(step=report.step, wall_time=time.time(), summary=scalar(name, value))
                for name, value in finite.items()
            ]
        )
        for tracker in self._trackers:
            tracker.log(report.step, finite)

    def answers(self, answers: Sequence[SampleAnswer]) -> None:
        """Show answers of the model, in samples.jsonl and in TensorBoard."""
        if not answers:
            return
        directory = self._files.directory
        try:
            if not self._has_answers:
                cut_answers(directory, self._first_step)
            self._has_answers = True
            add_answers(directory, answers)
        except OSError as error:
            self._warn(ANSWERS, error)
        self._write(
            [
                Event(
                    step=one.step,
                    wall_time=time.time(),
                    summary=text(f"samples/{number}", f"{one.prompt} **{one.answer}**"),
                )
                for number, one in enumerate(answers)
            ]
        )

    def chart(self) -> None:
        """Write the chart of all steps so far."""
        if not self._has_chart:
            return
        fresh: Path = self._files.directory / f"{CHART}.new.png"
        try:
            plot_training(self._files.metrics(), fresh)
            fresh.replace(self._files.directory / CHART)
        except OSError as error:
            self._warn(CHART, error)

    def close(self) -> None:
        """Close the files and the trackers."""
        for tracker in self._trackers:
            tracker.close()
        self._close_files()

    def _close_files(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):  # every step was flushed, or warned about
                writer.close()

    def _write(self, events: Sequence[Event]) -> None:
        """Write events to the disk; write no more after an error."""
        if self._is_off:
            return
        try:
            writer = self._writer = self._writer or self._opened()
            for event in events:
                writer.write_event(event)
            writer.flush()
        except OSError as error:
            self._is_off = True
            self._warn("TensorBoard's files", error)
            self._close_files()

    def _opened(self) -> EventsWriter:
        directory = self._files.directory / EVENTS
        directory_check(str(directory))
        writer = EventsWriter(str(directory / "events"))
        writer.write_event(Event(step=self._first_step + 1, session_log=_START))
        return writer

    def _warn(self, what: str, error: Exception) -> None:
        where = self._files.directory
        _LOG.warning("%s in %s could not be written (%s): the job continues", what, where, error)
