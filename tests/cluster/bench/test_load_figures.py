"""Figures of a load, from what each client saw."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from cluster.bench.load_figures import Load, Outcome, load_table, medians, summary

BOUNDS = {"max_ttft_s": 0.5, "max_gap_s": 0.1}
FULL = "RESOURCE_EXHAUSTED"


def outcome(due_s: float, ttft_s: float, gaps_s: tuple[float, ...] = ()) -> Outcome:
    first_s = due_s + ttft_s
    return Outcome(
        due_s,
        first_s=first_s,
        end_s=first_s + sum(gaps_s),
        gaps_s=list(gaps_s),
        num_tokens=1 + len(gaps_s),
    )


def summed(*outcomes: Outcome, wall_s: float = 10.0, repeat: int = 0) -> Load:
    return summary(outcomes, wall_s, mode="pearl", repeat=repeat, busy=0.5, **BOUNDS)


def test_every_request_completed_was_rejected_or_failed() -> None:
    cut = outcome(0.0, 0.1)
    cut.end_s = None  # its stream broke before the last message
    found = summed(
        outcome(0.0, 0.2), Outcome(1.0, error=FULL), Outcome(1.0, error="UNAVAILABLE"), cut
    )
    assert (found.requests, found.completed, found.rejected, found.failed) == (4, 1, 1, 2)
    assert found.tokens_per_s == 0.1  # of completed requests alone


def test_goodput_counts_requests_that_kept_both_bounds() -> None:
    late = outcome(0.0, 0.6, (0.05,))
    slow = outcome(0.0, 0.1, (0.05, 0.3))  # 0.175 s in the mean
    good = outcome(3.0, 0.5, (0.05, 0.15))
    found = summed(late, slow, good)
    assert found.requests_per_s == 0.3
    assert found.goodput == 0.1


def test_percentiles_are_values_that_so_many_do_not_exceed() -> None:
    found = summed(*(outcome(0.0, number / 100) for number in range(1, 101)))
    assert found.ttft_s == (0.5, 0.9, 0.99)
    assert found.gap_s == (0.0, 0.0, 0.0)  # answers of one token have no gaps
    assert summed(outcome(0.0, 0.25)).ttft_s == (0.25, 0.25, 0.25)


def test_waiting_counts_from_when_a_request_was_due() -> None:
    found = summed(outcome(2.0, 0.25, (0.5,)))
    assert found.ttft_s[0] == 0.25
    assert found.total_s[0] == 0.75


def test_acceptance_is_over_all_drafts() -> None:
    many, few = outcome(0.0, 0.1), outcome(0.0, 0.1)
    many.drafted, many.accepted, few.drafted, few.accepted = 90, 30, 10, 10
    assert summed(many, few).acceptance == 0.4
    assert summed(outcome(0.0, 0.1)).acceptance == 0.0


def test_the_row_of_a_mode_has_the_median_of_each_figure() -> None:
    runs = [summed(outcome(0.0, ttft_s), wall_s=wall_s) for ttft_s, wall_s in
            ((0.1, 30.0), (0.3, 10.0), (0.2, 20.0))]  # fmt: skip
    (row,) = medians(runs)
    assert row.mode == "pearl"
    assert (row.wall_s, row.ttft_s) == (20.0, (0.2, 0.2, 0.2))


@pytest.mark.parametrize("mode", ["", "auto"])
def test_a_run_without_a_mode_is_the_default_one(mode: str) -> None:
    found = summary([outcome(0.0, 0.1)], 1.0, mode=mode, repeat=3, busy=0.25, **BOUNDS)
    assert (found.mode, found.repeat, found.engine_busy) == (mode or "default", 3, 0.25)


def test_a_table_in_a_pipe_cuts_no_figure() -> None:
    load = replace(summed(outcome(0.0, 12.345, (1.234, 0.5))), mode="autoregressive")
    console = Console(file=io.StringIO(), width=140)
    console.print(load_table([load], "127.0.0.1:50051: 16 clients"))
    printed = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "autoregressive" in printed
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
