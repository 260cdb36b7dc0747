"""The results of `paceline bench constraints`: a row for each way to decode, and masks' costs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from cluster.bench.rows import Case, MeasuredRun
from cluster.reports.run_report import total_stats
from runtime.constraints.mask_costs import MaskCosts, percentiles

GROUP = "all"
"""The name of the only group of requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintCases:
    """What is compared."""

    plain: Case
    """Plain decoding without constraints."""
    constrained: Case
    """Plain decoding under constraints."""
    automatic: Case
    """What `generate` chooses, under constraints."""

    @property
    def all(self) -> tuple[Case, Case, Case]:
        """The cases in their order."""
        return self.plain, self.constrained, self.automatic


def constraint_rows(cases: ConstraintCases) -> list[dict[str, object]]:
    """Return the rows that `--json` prints; ratios are medians over repetitions."""
    plain, constrained, automatic = (case.runs[GROUP] for case in cases.all)
    return [
        _row(cases.plain, plain, plain, None),
        _row(cases.constrained, constrained, plain, constrained),
        _row(cases.automatic, automatic, plain, constrained),
    ]


def cost_row(costs: MaskCosts) -> dict[str, object]:
    """Return the costs that `--json` prints, in milliseconds of processor time."""
    row: dict[str, object] = {
        "constraints": len(costs.first_s),
        "outputs": costs.num_outputs,
        "complete": costs.num_complete,
        "masks": len(costs.mask_s),
    }
    kinds = {"first_mask": costs.first_s, "mask": costs.mask_s, "advance": costs.advance_s}
    for name, times in kinds.items():
        middle_s, high_s = percentiles(times)
        row |= {
            f"{name}_p50_ms": round(middle_s * 1e3, 4),
            f"{name}_p99_ms": round(high_s * 1e3, 4),
        }
    return row


def rows_table(rows: Sequence[dict[str, object]], title: str) -> Table:
    """Return the rows as a table."""
    columns = {
        "case": "case",
        "tokens_per_s": "tokens/s",
        "tokens_per_round": "tokens/round",
        "to_plain": "vs plain",
        "to_constrained": "vs constrained",
        "identical": "identical",
    }
    table = Table(title=title)
    for name in columns.values():
        table.add_column(name, justify="left" if name == "case" else "right")
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in columns))
    return table


def costs_table(row: dict[str, object]) -> Table:
    """Return the costs of masks as a table."""
    table = Table(title=f"{row['masks']} masks of {row['constraints']} constraints, processor time")
    table.add_column("step")
    for name in ("median", "99 %"):
        table.add_column(name, justify="right")
    names = {"first_mask": "compile, with the first mask", "mask": "mask", "advance": "advance"}
    for key, name in names.items():
        table.add_row(name, f"{row[f'{key}_p50_ms']} ms", f"{row[f'{key}_p99_ms']} ms")
    return table


def _row(
    case: Case,
    runs: Sequence[MeasuredRun],
    plain: Sequence[MeasuredRun],
    constrained: Sequence[MeasuredRun] | None,
) -> dict[str, object]:
    speeds = [_speed(run) for run in runs]
    stats = [total_stats(run.results, run.wall_s, tp=case.tp, drafter_tp=0) for run in runs]
    return {
        "case": case.name,
        "tokens": sum(map(len, runs[0].token_ids)),
        "tokens_per_s": round(statistics.median(speeds), 3),
        "tokens_per_s_min": round(min(speeds), 3),
        "tokens_per_s_max": round(max(speeds), 3),
        "tokens_per_round": round(statistics.median(s.mean_accepted_length for s in stats), 4),
        "acceptance_rate": round(statistics.median(s.acceptance_rate for s in stats), 4),
        "to_plain": _ratio(runs, plain),
        "to_constrained": None if constrained is None else _ratio(runs, constrained),
        "identical": None
        if constrained is None
        else all(run.token_ids == constrained[0].token_ids for run in runs),
    }


def _ratio(runs: Sequence[MeasuredRun], others: Sequence[MeasuredRun]) -> float:
    """Return the median ratio of neighboring runs: drift affects both sides alike."""
    pairs = zip(runs, others, strict=True)
    return round(statistics.median(_speed(mine) / _speed(other) for mine, other in pairs), 4)


def _speed(run: MeasuredRun) -> float:
    return sum(map(len, run.token_ids)) / run.wall_s


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
