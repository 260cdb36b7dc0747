"""The results of `paceline bench engines`: one row for each contender, and the table."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from cluster.bench.contenders import Contender, EngineKind
from cluster.bench.rows import Case, MeasuredRun
from cluster.reports.run_report import total_stats
from parallel.messages import Submit

Logits = Callable[[tuple[int, ...], tuple[int, ...]], Sequence[float]]
"""Returns an engine's logits of some tokens after a prefix."""
PREFILL = "prefill"
"""The group of requests that reads one long prompt and generates one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where an engine's tokens first differ from the reference's."""

    prompt: int
    """Number of the request."""
    position: int
    """Tokens before it that are the same."""
    token: int
    reference: int
    """The token that the reference has there."""
    margin: float | None
    """By how much the engine's own logit of its token exceeds that of the reference's; near 0
    means that rounding decides. None for Paceline itself, which may not differ at all."""


def first_differences(
    submits: Sequence[Submit],
    found: Sequence[tuple[int, ...]],
    reference: Sequence[tuple[int, ...]],
    logits_after: Logits | None,
) -> list[Difference]:
    """Return the first difference of every request whose tokens are not the reference's.

    Args:
        submits: the requests.
        found: an engine's tokens of each.
        reference: the tokens to compare with.
        logits_after: returns the engine's logits; None leaves the margins out.
    """
    differences = []
    for submit, mine, theirs in zip(submits, found, reference, strict=True):
        places = (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
        place = next(places, None)
        if place is None:
            continue
        margin = None
        if logits_after is not None:
            prefix = submit.prompt_ids + theirs[:place]
            best, other = logits_after(prefix, (mine[place], theirs[place]))
            margin = best - other
        differences.append(
            Difference(
                prompt=submit.request,
                position=place,
                token=mine[place],
                reference=theirs[place],
                margin=margin,
            )
        )
    return differences


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult:
    """What was measured of a contender."""

    contender: Contender
    case: Case
    memory_bytes: int
    differences: Sequence[Difference] = ()
    """From the reference's tokens, in the first run."""


def engine_rows(
    results: Sequence[EngineResult],
    groups: Sequence[str],
    *,
    prefill_tokens: int,
) -> list[dict[str, object]]:
    """Return the rows that `--json` prints over some groups of requests.

    Ratios are medians of those of neighbouring runs, so that drift affects both sides alike.

    Args:
        results: the contenders, in their order.
        groups: names of the groups.
        prefill_tokens: length of the long prompt; 0: none was measured.
    """
    rivals: dict[str, list[MeasuredRun]] = {}
    for kind in (EngineKind.LLAMA_CPP, EngineKind.TRANSFORMERS):
        for result in results:
            if result.contender.kind is kind and result.contender.num_lookup is None:
                rivals[kind.value] = result.case.over(groups)
    return [_row(result, groups, rivals, prefill_tokens) for result in results]


def _row(
    result: EngineResult,
    groups: Sequence[str],
    rivals: Mapping[str, list[MeasuredRun]],
    prefill_tokens: int,
) -> dict[str, object]:
    runs = result.case.over(groups)
    speeds, decoding = [_speed(run) for run in runs], [_decode_speed(run) for run in runs]
    margins = [d.margin for d in result.differences if d.margin is not None]
    row: dict[str, object] = {
        "contender": result.contender.name,
        "tokens_per_s": round(statistics.median(speeds), 3),
        "tokens_per_s_min": round(min(speeds), 3),
        "tokens_per_s_max": round(max(speeds), 3),
        "decode_tokens_per_s": round(statistics.median(decoding), 3),
        "ttft_s": round(statistics.median(s for run in runs for s in run.first_s), 6),
        "memory_mib": round(result.memory_bytes / 2**20),
        "same": len(runs[0].token_ids) - len(result.differences),
        "prompts": len(runs[0].token_ids),
        "largest_margin": max(margins, default=None),
    }
    for name, others in rivals.items():
        word = name.replace(".", "_")
        row[f"ratio_to_{word}"] = _ratio(runs, others, _speed)
        row[f"decode_ratio_to_{word}"] = _ratio(runs, others, _decode_speed)
    if runs[0].results:
        stats = total_stats([r for run in runs for r in run.results], 1.0, tp=0, drafter_tp=0)
        row["tokens_per_round"] = round(stats.mean_accepted_length, 3)
        row["acceptance_rate"] = round(stats.acceptance_rate, 4)
    if prefill_tokens:
        reading = [prefill_tokens / run.first_s[0] for run in result.case.runs[PREFILL]]
        row["prefill_tokens_per_s"] = round(statistics.median(reading), 2)
        row["prefill_tokens_per_s_min"] = round(min(reading), 2)
        row["prefill_tokens_per_s_max"] = round(max(reading), 2)
    return row


def _speed(run: MeasuredRun) -> float:
    return sum(map(len, run.token_ids)) / run.wall_s


def _decode_speed(run: MeasuredRun) -> float:
    """Return the speed after the first tokens; of requests that ran one after the other.

    Times of first tokens count from the start of each request.
    """
    num_tokens = sum(len(token_ids) - 1 for token_ids in run.token_ids)
    return num_tokens / (run.wall_s - sum(run.first_s)) if num_tokens else 0.0


def _ratio(
    runs: Sequence[MeasuredRun],
    others: Sequence[MeasuredRun],
    speed: Callable[[MeasuredRun], float],
) -> float | None:
    ratios = [
        speed(mine) / speed(theirs)
        for mine, theirs in zip(runs, others, strict=True)
        if speed(theirs)
    ]
    return round(statistics.median(ratios), 4) if ratios else None


def engine_table(rows: Sequence[Mapping[str, object]], title: str) -> Table:
    """Return the rows as a table."""
    table = Table(title=title)
    columns = {
        "contender": ("contender", "{}"),
        "tokens_per_s": ("tokens/s", "{:.1f}"),
        "decode_tokens_per_s": ("decoding", "{:.1f}"),
        "ratio_to_llama_cpp": ("vs llama.cpp", "{:.2f}"),
        "ratio_to_transformers": ("vs transformers", "{:.2f}"),
        "tokens_per_round": ("a round", "{:.2f}"),
        "ttft_s": ("first token", "{:.3f} s"),
        "prefill_tokens_per_s": ("prefill/s", "{:.0f}"),
        "memory_mib": ("MiB", "{:,}"),
        "same": ("same", "{}"),
        "largest_margin": ("margin", "{:.3f}"),
    }
    shown = {key: c for key, c in columns.items() if any(row.get(key) is not None for row in rows)}
    for key, (name, _) in shown.items():
        table.add_column(name, justify="left" if key == "contender" else "right")
    for row in rows:
        cells = {key: _cell(form, row.get(key)) for key, (_, form) in shown.items()}
        cells["tokens_per_s"] += f" ({row['tokens_per_s_min']:.1f}-{row['tokens_per_s_max']:.1f})"
        cells["same"] += f"/{row['prompts']}"
        table.add_row(*cells.values())
    return table


def _cell(form: str, value: object) -> str:
    return "-" if value is None else form.format(value)
