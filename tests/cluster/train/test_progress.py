"""Progress of a job as lines where standard error is no terminal, and as a bar where it is one."""

import io

from rich.console import Console

from cluster.train.progress import JobProgress, StepDisplay
from runtime.training.training_step import StepReport


class Log:
    """A console, and the clock that its lines are timed by."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.now = 0.0
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=terminal, width=80, highlight=False)

    def progress(self, total: int, done: int = 0) -> JobProgress:
        return JobProgress(total, done, console=self.console, now_s=lambda: self.now)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


def report(step: int, *, skipped: bool = False, num_lost: int = 0) -> StepReport:
    return StepReport(
        step=step, loss=2.5, lr=1e-3, gradient_norm=1.0, num_tokens=200, seconds=2.0,
        num_repeated=0, num_stragglers=1, num_lost=num_lost, skipped=skipped,
    )  # fmt: skip


def test_a_log_has_a_line_every_ten_seconds_and_the_last_one() -> None:
    log = Log()
    with log.progress(100, done=40) as progress:
        for step in range(41, 101):
            log.now += 1.0
            progress.show(step, f"loss {step}")
    assert log.lines[0] == "41/100 loss 41 0:00:59 left"
    assert [line.split()[0] for line in log.lines] == [
        "41/100", "51/100", "61/100", "71/100", "81/100", "91/100", "100/100",
    ]  # fmt: skip
    assert log.lines[-1] == "100/100 loss 100"


def test_a_terminal_has_a_bar_and_no_lines() -> None:
    log = Log(terminal=True)
    with log.progress(4) as progress:
        for step in range(1, 5):
            log.now += 20.0
            progress.show(step, "loss 1")
        progress.note("accuracy 1")
    text = log.file.getvalue()
    assert "4/4" in text
    assert text.count("left") == 0
    assert "accuracy 1" in text


def test_a_line_counts_what_was_lost_late_and_skipped() -> None:
    log = Log()
    with log.progress(2) as progress:
        display = StepDisplay(progress, 0)
        display.step(report(1, skipped=True, num_lost=2))
        display.step(report(2))
    assert log.lines == [
        "1/2 loss 2.500 lr 1e-03 100 tok/s late 1/1 wait 0 lost 2 skipped 1 0:00:00 left",
        "2/2 loss 2.500 lr 1e-03 100 tok/s late 1/2 wait 0 lost 2 skipped 1",
    ]
