"""The bar of a benchmark shows the case that is measured, and how many are done."""

import io

from rich.console import Console

from cluster.bench.case_progress import case_progress


def test_a_case_counts_when_the_next_one_starts() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80, color_system=None)
    with case_progress(3, console) as start:
        for case in ("first", "second", "third"):
            start(case)
    shown = text.getvalue()
    assert "measuring third" in shown
    assert "2/3" in shown
    assert "3/3" not in shown
