"""The figures of `paceline bench serve`: one row per run, from what each client saw."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

REJECTED = "RESOURCE_EXHAUSTED"
"""The error of a request that the full server rejected."""


@dataclass(slots=True)
class Outcome:
    """One request as its client saw it."""

    due_s: float
    """When it was due, in seconds from the start of the run."""
    first_s: float | None = None
    end_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    """Times between tokens; tokens that arrive together share their gap."""
    num_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    error: str = ""

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        assert self.first_s is not None
        return self.first_s - self.due_s

    @property
    def mean_gap_s(self) -> float:
        """Mean time between tokens; 0 for an answer of one token."""
        return statistics.fmean(self.gaps_s) if self.gaps_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The figures of one run; times are in seconds."""

    mode: str
    repeat: int
    requests: int
    completed: int
    rejected: int
    """Requests that the full server rejected."""
    failed: int
    wall_s: float
    tokens_per_s: float
    requests_per_s: float
    goodput: float
    """Completed requests per second that stayed within both latency bounds."""
    acceptance: float
    engine_busy: float
    """Share of the time spent in target forwards and in drafting that they waited for; the rest is
    scheduling, transport and idle time."""
    ttft_s: tuple[float, float, float]
    """p50, p90, p99."""
    gap_s: tuple[float, float, float]
    total_s: tuple[float, float, float]


def summary(
    outcomes: Sequence[Outcome],
    wall_s: float,
    *,
    mode: str,
    repeat: int,
    busy: float,
    max_ttft_s: float,
    max_gap_s: float,
) -> Load:
    """Return the figures of a run.

    Args:
        outcomes: of all its requests.
        wall_s: seconds that the run took.
        mode: the requests' decoding mode; empty for the server's default.
        repeat: number of the run, from 0.
        busy: share of the time in which the engine computed.
        max_ttft_s: longest time to the first token of a good request.
        max_gap_s: longest mean time between the tokens of a good request.
    """
    done = [o for o in outcomes if not o.error and o.first_s is not None and o.end_s is not None]
    good = [o for o in done if o.ttft_s <= max_ttft_s and o.mean_gap_s <= max_gap_s]
    drafted = sum(o.drafted for o in done)
    rejected = sum(o.error == REJECTED for o in outcomes)
    return Load(
        mode=mode or "default",
        repeat=repeat,
        requests=len(outcomes),
        completed=len(done),
        rejected=rejected,
        failed=len(outcomes) - len(done) - rejected,
        wall_s=round(wall_s, 3),
        tokens_per_s=round(sum(o.num_tokens for o in done) / wall_s, 2),
        requests_per_s=round(len(done) / wall_s, 3),
        goodput=round(len(good) / wall_s, 3),
        acceptance=round(sum(o.accepted for o in done) / drafted, 3) if drafted else 0.0,
        engine_busy=busy,
        ttft_s=_percentiles([o.ttft_s for o in done]),
        gap_s=_percentiles([gap for o in done for gap in o.gaps_s]),
        total_s=_percentiles([(o.end_s or 0.0) - o.due_s for o in done]),
    )


def medians(loads: Sequence[Load]) -> list[Load]:
    """Return one row for each mode: the median of every figure over its runs."""
    found = []
    for mode in dict.fromkeys(load.mode for load in loads):
        runs = [asdict(load) for load in loads if load.mode == mode]
        middle = {name: _median([run[name] for run in runs]) for name in runs[0] if name != "mode"}
        found.append(Load(mode=mode, **middle))
    return found


def load_table(loads: Sequence[Load], title: str) -> Table:
    """Return the medians of each mode as a table."""
    table = Table(title=title, caption="medians over the runs of a mode")
    names = ("tokens/s", "goodput/s", "TTFT p50 p90 p99 ms", "gap p50 p90 p99 ms")
    rest = ("total p50 p90 p99 s", "accepted", "engine busy", "completed", "rejected", "failed")
    table.add_column("mode", no_wrap=True)
    for name in (*names, *rest):
        table.add_column(name, justify="right")
    for load in medians(loads):
        table.add_row(
            load.mode,
            f"{load.tokens_per_s:.1f}",
            f"{load.goodput:.2f}",
            " ".join(f"{1000 * value:.0f}" for value in load.ttft_s),
            " ".join(f"{1000 * value:.0f}" for value in load.gap_s),
            " ".join(f"{value:.1f}" for value in load.total_s),
            f"{load.acceptance:.2f}",
            f"{load.engine_busy:.2f}",
            f"{load.completed:g}",
            f"{load.rejected:g}",
            f"{load.failed:g}",
        )
    return table


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return p50, p90 and p99, each a value of the list (the nearest-rank method)."""
    ranked = sorted(values)
    if not ranked:
        return (0.0, 0.0, 0.0)
    p50, p90, p99 = (ranked[max(0, -(-len(ranked) * p // 100) - 1)] for p in (50, 90, 99))
    return (round(p50, 4), round(p90, 4), round(p99, 4))


def _median(values: list[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(statistics.median(part) for part in zip(*values, strict=True))
    return statistics.median(values)
