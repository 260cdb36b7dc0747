"""Rows of a comparison, computed by hand."""

import pytest
from rich.console import Console

from cluster.bench.rows import Case, MeasuredRun, bench_rows, bench_table
from cluster.deploy.driver_session import Result
from parallel.messages import RequestStats, Submit
from tests.support.rig import make_submit


def never(_: list[Submit], __: int) -> MeasuredRun:
    raise AssertionError("rows measure nothing")


def run(wall_s: float, num_tokens: int = 10, *, token: int = 1, accepted: int = 0) -> MeasuredRun:
    """Return a run of one request; with accepted tokens it has drafted twice as many."""
    stats = RequestStats(
        rounds=5, drafted=2 * accepted, accepted=accepted, rejected=accepted, draft_s=1.0
    )
    tokens = (token,) * num_tokens
    result = Result(submit=make_submit(0, prompt=(1,)), token_ids=list(tokens), stats=stats)
    return MeasuredRun(token_ids=(tokens,), wall_s=wall_s, results=(result,) if accepted else ())


def cases() -> list[Case]:
    plain = Case(name="plain", tp=1, measure=never, runs={"all": [run(2.0), run(1.0), run(4.0)]})
    drafted = Case(
        name="pearl",
        tp=2,
        measure=never,
        predict=lambda alpha: 40 * alpha,
        nominal_alpha=0.25,
        runs={"all": [run(1.0, accepted=4), run(0.5, accepted=4), run(1.0, accepted=4)]},
    )
    return [plain, drafted]


def test_a_row_has_the_median_speed_and_the_median_ratio_of_neighbouring_runs() -> None:
    plain, drafted = bench_rows(cases(), ["all"])
    assert (plain["tokens_per_s"], plain["ratio_to_first"]) == (5.0, 1.0)
    assert (plain["tokens_per_s_min"], plain["tokens_per_s_max"]) == (2.5, 10.0)
    assert plain["acceptance_rate"] is None  # nothing was drafted
    assert (drafted["mode"], drafted["tp"]) == ("pearl", 2)
    assert drafted["tokens_per_s"] == 10.0
    assert drafted["ratio_to_first"] == 2.0  # of 2, 2 and 4
    assert drafted["acceptance_rate"] == 0.5
    assert drafted["mean_accepted_length"] == 2.0


def test_speeds_are_compared_with_the_formula_at_both_acceptance_rates() -> None:
    _, drafted = bench_rows(cases(), ["all"])
    assert drafted["predicted_tokens_per_s"] == 10.0
    assert drafted["ratio_to_predicted"] == 1.0
    assert drafted["ratio_to_predicted_at_measured_alpha"] == 0.5  # 10 of 40 * 0.5


def test_one_different_token_in_any_run_is_seen() -> None:
    found = cases()
    assert all(row["identical"] for row in bench_rows(found, ["all"]))
    found[1].runs["all"][2] = run(1.0, accepted=4, token=2)
    assert [row["identical"] for row in bench_rows(found, ["all"])] == [True, False]


def test_groups_are_added_before_medians_are_taken() -> None:
    case = Case(
        name="plain",
        tp=1,
        measure=never,
        runs={"qa": [run(1.0), run(2.0)], "math": [run(3.0, 30), run(2.0, 30)]},
    )
    (row,) = bench_rows([case], ["qa", "math"])
    assert row["tokens_per_s"] == 10.0  # 40 tokens in 4 s, twice
    (row,) = bench_rows([case], ["qa"])
    assert row["tokens_per_s"] == pytest.approx(7.5)


def test_the_table_shows_formula_columns_only_where_there_is_one() -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(bench_table(bench_rows(cases(), ["all"]), "both"))
    assert "vs formula" in shown.get()
    assert "5.0 (2.5-10.0)" in shown.get()
    with console.capture() as shown:
        console.print(bench_table(bench_rows(cases()[:1], ["all"]), "plain"))
    assert "vs formula" not in shown.get()
