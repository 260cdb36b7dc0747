"""The results of `paceline bench decode`: one row per configuration, and the table."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rich.table import Table

from cluster.deploy.driver_session import Result
from cluster.reports.resume_file import as_result, result_fields
from cluster.reports.run_report import Stats, total_stats
from parallel.messages import Submit


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One run of one configuration."""

    token_ids: tuple[tuple[int, ...], ...]
    wall_s: float
    first_s: tuple[float, ...] = ()
    """Seconds from the run's start to each request's first token."""
    results: tuple[Result, ...] = ()
    """Empty for a baseline."""

    @property
    def fields(self) -> dict[str, object]:
        """The fields that a resume file stores."""
        return {
            "token_ids": self.token_ids,
            "wall_s": self.wall_s,
            "first_s": self.first_s,
            "results": [result_fields(result) for result in self.results],
        }


def as_measured(submits: Sequence[Submit], fields: Mapping[str, Any]) -> MeasuredRun:
    """Return the stored run."""
    results = fields["results"]
    return MeasuredRun(
        token_ids=tuple(tuple(token_ids) for token_ids in fields["token_ids"]),
        wall_s=fields["wall_s"],
        first_s=tuple(fields["first_s"]),
        results=tuple(as_result(*pair) for pair in zip(submits, results, strict=bool(results))),
    )


@dataclass(slots=True, kw_only=True)
class Case:
    """A configuration and its runs."""

    name: str
    tp: int
    measure: Callable[[list[Submit], int], MeasuredRun]
    """Runs the requests once with this many tokens each."""
    predict: Callable[[float], float] | None = None
    """Tokens per second by the cost formulas at an acceptance rate, for virtual devices."""
    nominal_alpha: float = 0.0
    """The configured acceptance rate of the virtual drafter."""
    runs: dict[str, list[MeasuredRun]] = field(default_factory=dict)
    """Runs by the group of requests."""

    def over(self, groups: Sequence[str]) -> list[MeasuredRun]:
        """Return each repetition's run, joined over the given groups."""
        return [concatenate(parts) for parts in zip(*(self.runs[g] for g in groups), strict=True)]


def bench_rows(cases: Sequence[Case], groups: Sequence[str]) -> list[dict[str, object]]:
    """Return the rows that `--json` prints over some groups; ratios are to the first case."""
    first = cases[0].over(groups)
    return [_row(case, case.over(groups), first) for case in cases]


def concatenate(parts: Sequence[MeasuredRun]) -> MeasuredRun:
    """Return several runs joined into one."""
    return MeasuredRun(
        token_ids=tuple(chain.from_iterable(part.token_ids for part in parts)),
        wall_s=sum(part.wall_s for part in parts),
        first_s=tuple(chain.from_iterable(part.first_s for part in parts)),
        results=tuple(chain.from_iterable(part.results for part in parts)),
    )


def _row(case: Case, runs: list[MeasuredRun], first: list[MeasuredRun]) -> dict[str, object]:
    speeds = [_speed(measured) for measured in runs]
    speed = statistics.median(speeds)
    stats = [_stats(measured) for measured in runs if measured.results]
    row: dict[str, object] = {
        "mode": case.name,
        "tp": case.tp,
        "tokens_per_s": round(speed, 3),
        "tokens_per_s_min": round(min(speeds), 3),
        "tokens_per_s_max": round(max(speeds), 3),
        "ratio_to_first": round(_ratio(runs, first), 4),
        "identical": all(run.token_ids == first[0].token_ids for run in runs),
        "acceptance_rate": _median([s.acceptance_rate for s in stats]),
        "alpha": _median([s.alpha for s in stats]),
        "mean_accepted_length": _median([s.mean_accepted_length for s in stats]),
        "overlap": _median([s.overlap for s in stats]),
        "ttft_s": _median([s.ttft_s for s in stats]),
        "drafted": stats[-1].drafted if stats else 0,
        "accepted": stats[-1].accepted if stats else 0,
        "missed_drafts": sum(s.missed_drafts for s in stats),
        "hit_rate": _median([s.hit_rate for s in stats]),
        "recovered_hit_rate": _median([s.recovered_hit_rate for s in stats]),
        "misses_unforeseen": sum(s.misses_unforeseen for s in stats),
        "misses_late": sum(s.misses_late for s in stats),
        "misses_unasked": sum(s.misses_unasked for s in stats),
        "guesses_per_round": _median([s.guesses_per_round for s in stats]),
        "drafted_per_token": _median([s.drafted_per_token for s in stats]),
    }
    if case.predict is not None:
        predicted = case.predict(case.nominal_alpha)
        row["predicted_tokens_per_s"] = round(predicted, 3)
        row["ratio_to_predicted"] = round(speed / predicted, 4)
        row["ratio_to_predicted_at_measured_alpha"] = round(
            _at_measured_alpha(runs, case.predict), 4
        )
    return row


def _at_measured_alpha(runs: Sequence[MeasuredRun], predict: Callable[[float], float]) -> float:
    """Return the median ratio of speed to the formula at the acceptance that each run had.

    The acceptance of a few hundred drafted tokens differs from the nominal rate by chance; this
    ratio is free of that chance and shows the cost of the runtime alone.
    """
    return statistics.median(_speed(run) / predict(_stats(run).alpha) for run in runs)


def _ratio(runs: Sequence[MeasuredRun], first: Sequence[MeasuredRun]) -> float:
    """Return the median of the ratios of neighbouring runs: drift affects both sides alike."""
    pairs = zip(runs, first, strict=True)
    return statistics.median(_speed(mine) / _speed(theirs) for mine, theirs in pairs)


def _stats(measured: MeasuredRun) -> Stats:
    return total_stats(measured.results, measured.wall_s, tp=0, drafter_tp=0)


def _speed(measured: MeasuredRun) -> float:
    return sum(len(token_ids) for token_ids in measured.token_ids) / measured.wall_s


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None


def bench_table(rows: list[dict[str, object]], title: str) -> Table:
    """Return the rows as a table."""
    table = Table(title=title)
    columns = {
        "mode": "mode",
        "tp": "tp",
        "tokens_per_s": "tokens/s",
        "ratio_to_first": "vs first",
        "acceptance_rate": "acceptance",
        "mean_accepted_length": "tokens/round",
        "overlap": "overlap",
        "identical": "identical",
    }
    predicted = any("predicted_tokens_per_s" in row for row in rows)
    if predicted:
        columns["ratio_to_predicted"] = "vs formula"
        columns["ratio_to_predicted_at_measured_alpha"] = "at its acceptance"
    for title in columns.values():
        table.add_column(title, justify="left" if title == "mode" else "right")
    for row in rows:
        cells = [_cell(key, row.get(key)) for key in columns]
        cells[2] += f" ({row['tokens_per_s_min']:.1f}-{row['tokens_per_s_max']:.1f})"
        table.add_row(*cells)
    return table


def _cell(key: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if key == "tokens_per_s" else f"{value:.2f}"
    return str(value)
