"""Rows of engines side by side, computed by hand."""

import pytest
from rich.console import Console

from cluster.bench.contenders import parse_contenders
from cluster.bench.engine_rows import (
    PREFILL,
    Difference,
    EngineResult,
    engine_rows,
    engine_table,
    first_differences,
)
from cluster.bench.rows import Case, MeasuredRun
from cluster.deploy.driver_session import Result
from parallel.messages import RequestStats, Submit
from tests.support.rig import make_submit

NAMES = ("llama.cpp", "transformers", "autoregressive", "auto")


def never(_: list[Submit], __: int) -> MeasuredRun:
    raise AssertionError("rows measure nothing")


def run(wall_s: float, *, num_tokens: int = 11, first_s: float = 0.5) -> MeasuredRun:
    return MeasuredRun(
        token_ids=((1,) * num_tokens,) * 2, wall_s=wall_s, first_s=(first_s, first_s)
    )


def with_rounds(measured: MeasuredRun, *, rounds: int, accepted: int) -> MeasuredRun:
    stats = RequestStats(rounds=rounds, drafted=2 * accepted, accepted=accepted)
    results = tuple(
        Result(submit=make_submit(0, prompt=(1,)), token_ids=list(token_ids), stats=stats)
        for token_ids in measured.token_ids
    )
    return MeasuredRun(
        token_ids=measured.token_ids,
        wall_s=measured.wall_s,
        first_s=measured.first_s,
        results=results,
    )


def results() -> list[EngineResult]:
    runs = {
        "llama.cpp": [run(2.0), run(3.0), run(5.0)],
        "transformers": [run(11.0), run(21.0), run(21.0)],
        "autoregressive": [run(3.0), run(5.0), run(5.0)],
        "auto": [with_rounds(run(1.5), rounds=5, accepted=6)] * 3,
    }
    tie = Difference(prompt=1, position=4, token=8, reference=9, margin=0.25)
    prefill = [run(1.0, num_tokens=1, first_s=s) for s in (2.0, 1.0, 4.0)]
    return [
        EngineResult(
            contender=contender,
            case=Case(
                name=contender.name,
                tp=1,
                measure=never,
                runs={"qa": runs[contender.name], PREFILL: prefill},
            ),
            memory_bytes=300 * 2**20,
            differences=(tie,) if contender.name == "llama.cpp" else (),
        )
        for contender in parse_contenders(NAMES)
    ]


def test_a_row_has_medians_spread_and_ratios_to_the_plain_rivals() -> None:
    rows = {row["contender"]: row for row in engine_rows(results(), ["qa"], prefill_tokens=8)}
    plain = rows["autoregressive"]
    assert (plain["tokens_per_s_min"], plain["tokens_per_s_max"]) == (4.4, 7.333)
    assert plain["tokens_per_s"] == 4.4
    assert plain["decode_tokens_per_s"] == 5.0  # 20 tokens in 5 s without 1 s of first tokens
    assert plain["ratio_to_llama_cpp"] == 0.6667  # of 2/3, 3/5 and 5/5
    assert plain["decode_ratio_to_llama_cpp"] == 0.5  # of 1/2, 2/4 and 4/4
    assert plain["ratio_to_transformers"] == 4.2  # of 11/3, 21/5 and 21/5
    assert plain["ttft_s"] == 0.5
    assert plain["prefill_tokens_per_s"] == 4.0  # of 4, 8 and 2
    assert (plain["prefill_tokens_per_s_min"], plain["prefill_tokens_per_s_max"]) == (2.0, 8.0)
    assert plain["memory_mib"] == 300
    assert "tokens_per_round" not in plain
    assert rows["auto"]["tokens_per_round"] == pytest.approx(2.2)
    assert rows["auto"]["acceptance_rate"] == 0.5
    assert rows["llama.cpp"]["ratio_to_llama_cpp"] == 1.0
    assert (rows["llama.cpp"]["same"], rows["llama.cpp"]["largest_margin"]) == (1, 0.25)
    assert (plain["same"], plain["prompts"], plain["largest_margin"]) == (2, 2, None)


def test_rows_need_neither_rivals_nor_a_long_prompt() -> None:
    (row,) = engine_rows(results()[2:3], ["qa"], prefill_tokens=0)
    assert not {"ratio_to_llama_cpp", "ratio_to_transformers", "prefill_tokens_per_s"} & row.keys()


def test_a_rivals_own_lookup_is_not_the_rival() -> None:
    found = results()[2:3]
    (lookup, _) = parse_contenders(("llama.cpp:lookup=2", "auto"))
    found.append(EngineResult(contender=lookup, case=found[0].case, memory_bytes=1, differences=()))
    assert all(
        "ratio_to_llama_cpp" not in row for row in engine_rows(found, ["qa"], prefill_tokens=0)
    )


def test_only_the_first_difference_of_a_prompt_counts_and_has_its_margin() -> None:
    submits = [make_submit(0, prompt=(1, 2)), make_submit(1, prompt=(3,))]
    asked = []

    def logits_after(prefix: tuple[int, ...], token_ids: tuple[int, ...]) -> tuple[float, ...]:
        asked.append((prefix, token_ids))
        return (1.5, 1.25)

    mine, theirs = ((5, 6, 7, 8), (4, 4)), ((5, 6, 0, 0), (4, 4))
    found = first_differences(submits, mine, theirs, logits_after)
    assert found == [Difference(prompt=0, position=2, token=7, reference=0, margin=0.25)]
    assert asked == [((1, 2, 5, 6), (7, 0))]
    (unexplained,) = first_differences(submits, mine, theirs, None)
    assert unexplained.margin is None


def test_the_table_shows_the_columns_that_were_measured() -> None:
    console = Console(width=220)
    with console.capture() as shown:
        console.print(engine_table(engine_rows(results(), ["qa"], prefill_tokens=8), "all"))
    text = shown.get()
    assert "vs llama.cpp" in text
    assert "4.4 (4.4-7.3)" in text
    assert "1/2" in text
    assert "0.250" in text
    with console.capture() as shown:
        console.print(engine_table(engine_rows(results()[2:3], ["qa"], prefill_tokens=0), "one"))
    assert "llama.cpp" not in shown.get()
