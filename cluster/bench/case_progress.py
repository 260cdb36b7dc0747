"""The progress bar of a benchmark that measures several cases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def case_progress(total: int, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show a bar of `total` measurements; yields a function to call when each one starts."""
    with Progress(
        TextColumn("measuring {task.fields[case]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console or Console(stderr=True),
        transient=True,
        refresh_per_second=1,  # leaves the cores to the measurement
    ) as progress:
        task = progress.add_task("bench", total=total, case="")
        num_started = 0

        def start(case: str) -> None:
            nonlocal num_started
            progress.update(task, case=case, completed=num_started)
            num_started += 1

        yield start
