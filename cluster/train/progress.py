"""The progress of a fine-tuning job: a bar on a terminal, lines in a log."""

import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from runtime.training.training_step import StepReport

_LINE_EVERY_S = 10.0


class JobProgress:
    """Shows how many steps are made; where no one watches a terminal, as lines now and then."""

    def __init__(
        self,
        total: int,
        done: int,
        *,
        console: Console,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show steps out of `total`, of which `done` are made."""
        self._console = console
        self._total = total
        self._done = self._first = done
        self._now_s = now_s
        self._start_s = now_s()
        self._line_s = -math.inf
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=10),  # all of it fits in 80 columns
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=console,
                refresh_per_second=1,
            )
            self._task = self._bar.add_task("", total=total, completed=done, figures="")

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the bar; it stays visible."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, figures: str) -> None:
        """Show that so many steps are made, with figures of the last one."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=figures)
            return
        now_s = self._now_s()
        if now_s - self._line_s >= _LINE_EVERY_S or done == self._total:
            self._line_s = now_s
            self.note(f"{done}/{self._total} {figures}{self._left(now_s)}")

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _left(self, now_s: float) -> str:
        made = self._done - self._first
        if made <= 0 or self._done == self._total:
            return ""
        left_s = (now_s - self._start_s) / made * (self._total - self._done)
        return f" {duration(left_s)} left"


class StepDisplay:
    """Shows the steps of a job whose workers send gradients."""

    def __init__(self, progress: JobProgress, done: int) -> None:
        """Show steps after the first `done`."""
        self._progress = progress
        self._done = done
        self._lost = self._late = self._waits = self._skipped = 0

    def step(self, report: StepReport) -> None:
        """Advance by a step."""
        self._done += 1
        self._lost += report.num_lost
        self._late += report.num_stragglers
        self._waits += report.waited
        self._skipped += report.skipped
        skipped = f" skipped {self._skipped}" if self._skipped else ""
        self._progress.show(
            self._done,
            f"loss {report.loss:.3f} lr {report.lr:.0e} "
            f"{report.num_tokens / max(report.seconds, 1e-9):.0f} tok/s "
            f"late {report.num_stragglers}/{self._late} wait {self._waits} lost {self._lost}"
            f"{skipped}",
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.note(text)


def figures(metrics: Mapping[str, float | None]) -> str:
    """Return the metrics that a user reads, as text."""
    names = ("step", "loss", "eval_loss", "accuracy", "margin", "reward")
    found = {name: metrics[name] for name in names if metrics.get(name) is not None}
    return ", ".join(f"{name} {value:g}" for name, value in found.items())


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}"
