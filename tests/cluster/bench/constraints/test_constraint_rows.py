from cluster.bench.constraints.constraint_rows import (
    GROUP,
    ConstraintCases,
    constraint_rows,
    cost_row,
    costs_table,
    rows_table,
)
from cluster.bench.rows import Case, MeasuredRun
from cluster.deploy.driver_session import Result
from parallel.messages import RequestStats
from runtime.constraints.mask_costs import MaskCosts
from tests.support.rig import make_submit


def measured(num_tokens: int, wall_s: float, rounds: int) -> MeasuredRun:
    token_ids = tuple(range(num_tokens))
    result = Result(
        submit=make_submit(),
        token_ids=list(token_ids),
        stats=RequestStats(rounds=rounds, drafted=8, accepted=num_tokens - rounds),
    )
    return MeasuredRun(token_ids=(token_ids,), wall_s=wall_s, results=(result,))


def case(name: str, *runs: MeasuredRun) -> Case:
    def never(*_: object) -> MeasuredRun:
        raise AssertionError

    return Case(name=name, tp=1, measure=never, runs={GROUP: list(runs)})


def cases(automatic: MeasuredRun) -> ConstraintCases:
    return ConstraintCases(
        plain=case("plain", measured(30, 3.0, 30), measured(30, 6.0, 30)),
        constrained=case("constrained", measured(20, 2.5, 20), measured(20, 5.0, 20)),
        automatic=case("automatic", automatic, measured(20, 2.5, 10)),
    )


def test_each_case_is_compared_with_its_neighbors_in_the_same_repetition() -> None:
    plain, constrained, automatic = constraint_rows(cases(measured(20, 1.25, 10)))
    assert (plain["to_plain"], plain["to_constrained"], plain["identical"]) == (1.0, None, None)
    assert (constrained["to_plain"], constrained["to_constrained"]) == (0.8, 1.0)
    assert (automatic["to_constrained"], automatic["identical"]) == (2.0, True)
    assert (constrained["tokens_per_round"], automatic["tokens_per_round"]) == (1.0, 2.0)
    assert automatic["tokens_per_s"] == 12.0


def test_other_tokens_than_those_of_constrained_decoding_are_reported() -> None:
    assert constraint_rows(cases(measured(19, 1.0, 10)))[2]["identical"] is False


def test_costs_are_milliseconds_in_row_and_table() -> None:
    costs = MaskCosts(
        first_s=(0.02, 0.04),
        mask_s=tuple(n / 1e4 for n in range(101)),
        advance_s=(1e-5,) * 101,
        num_complete=1,
        num_outputs=2,
    )
    row = cost_row(costs)
    assert (row["first_mask_p50_ms"], row["mask_p50_ms"], row["mask_p99_ms"]) == (30.0, 5.0, 9.9)
    assert (row["masks"], row["complete"], row["outputs"]) == (101, 1, 2)
    assert costs_table(row).row_count == 3
    assert rows_table(constraint_rows(cases(measured(20, 1.0, 9))), "title").row_count == 3
