"""Figures of runs: sums over requests, shares of what there was, and what people read."""

import pytest
from rich.console import Console

from cluster.deploy.driver_session import Result
from cluster.reports.run_report import request_stats, stats_json, stats_table, total_stats
from parallel.messages import RequestStats
from tests.support.rig import make_submit


def result(number: int, num_tokens: int, error: str | None = None, **stats: object) -> Result:
    return Result(
        submit=make_submit(number, prompt=(1,)),
        token_ids=[7] * num_tokens,
        stats=RequestStats(**stats),  # type: ignore[arg-type]  # a test names real fields
        error=error,
    )


TWO = [
    result(
        0, 12, rounds=4, drafted=10, accepted=6, rejected=2, ttft_s=0.2, total_s=2.0,
        draft_s=1.0, hidden_s=0.5, draft_step_s=0.01, predicted_step_s=0.02,
    ),
    result(
        1, 8, rounds=6, drafted=0, accepted=0, rejected=2, ttft_s=0.4, total_s=1.0, draft_s=3.0,
        hidden_s=2.5, missed_drafts=3, draft_step_s=0.03, predicted_step_s=0.04,
    ),
]  # fmt: skip


def test_figures_of_several_requests_are_over_all_of_them() -> None:
    found = total_stats(TWO, 4.0, tp=2, drafter_tp=1)
    assert (found.tp, found.drafter_tp) == (2, 1)
    assert found.tokens_per_s == 5.0
    assert found.ttft_s == pytest.approx(0.3)
    assert (found.rounds, found.drafted, found.accepted) == (10, 10, 6)
    assert found.acceptance_rate == 0.6
    assert found.alpha == 0.6  # 6 accepted, 4 rejected
    assert found.mean_accepted_length == 2.0
    assert found.overlap == 0.75
    assert found.draft_step_s == pytest.approx(0.02)
    assert found.predicted_step_s == pytest.approx(0.03)
    assert found.missed_drafts == 3


def test_hits_are_shares_of_the_rounds_that_drafted_ahead() -> None:
    one = result(
        0, 12, rounds=8, drafted=10, accepted=6, rejected=4, hits=5, recovered_hits=3,
        misses_unforeseen=1, misses_late=1, guesses=84, drafted_ahead=240,
    )  # fmt: skip
    other = result(1, 8, rounds=4, drafted=4, accepted=4, misses_unasked=3)
    found = total_stats([one, other], 4.0, tp=1, drafter_tp=1)
    assert found.hit_rate == 0.5
    assert found.recovered_hit_rate == 0.75
    assert (found.misses_unforeseen, found.misses_late, found.misses_unasked) == (1, 1, 3)
    assert found.guesses_per_round == 8.4
    assert found.drafted_per_token == (240 + 4) / 20
    assert found.tokens_per_s_per_device == 2.5
    plain = total_stats(TWO, 4.0, tp=2, drafter_tp=1)
    assert (plain.hit_rate, plain.drafted_per_token) == (0.0, 0.5)


def test_one_request_is_timed_by_itself() -> None:
    assert request_stats(TWO[0], tp=1, drafter_tp=1).tokens_per_s == 6.0


def test_requests_that_failed_do_not_count() -> None:
    failed = result(2, 100, error="too long", rounds=50, ttft_s=9.0)
    assert total_stats([*TWO, failed], 4.0, tp=2, drafter_tp=1) == total_stats(
        TWO, 4.0, tp=2, drafter_tp=1
    )


def test_nothing_measured_is_zero_and_not_an_error() -> None:
    found = total_stats([], 0.0, tp=1, drafter_tp=0)
    assert (found.tokens_per_s, found.alpha, found.overlap, found.mode) == (0.0, 0.0, 0.0, "")


def test_json_has_the_figures_rounded() -> None:
    found = stats_json(total_stats(TWO, 3.0, tp=1, drafter_tp=1))
    assert found["tokens_per_s"] == 6.6667
    assert found["rounds"] == 10


def test_the_table_shows_losses_only_where_there_are_some() -> None:
    def text(results: list[Result]) -> str:
        console = Console(width=100)
        with console.capture() as shown:
            console.print(stats_table(total_stats(results, 4.0, tp=1, drafter_tp=1)))
        return shown.get()

    lost = result(2, 5, rounds=2, drafter_lost=True, draft_width=4)
    assert "60%" not in text(TWO)
    assert "75%" in text(TWO)
    assert "lost during the run" not in text(TWO)
    assert "lost during the run" in text([*TWO, lost])
    assert "draft layers at a time" in text([*TWO, lost])
