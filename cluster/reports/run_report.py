"""The report of a run: statistics of requests and their sums, as a table or JSON."""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from cluster.deploy.driver_session import Result
from parallel.messages import RequestStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The figures of one request or of several together."""

    mode: str
    tp: int
    drafter_tp: int
    tokens_per_s: float
    ttft_s: float
    rounds: int
    drafted: int
    accepted: int
    acceptance_rate: float
    """accepted / drafted: the share of scored draft tokens that was kept."""
    mean_accepted_length: float
    """Tokens committed per round."""
    overlap: float
    """Share of the drafting time during which the target did not wait."""
    alpha: float
    """accepted / (accepted + rejected): how likely the next draft token is right."""
    layer_parallel: int | None
    """Drafter layers whose attention ran at once, at the end; None for drafters without this
    choice."""
    draft_step_s: float
    """Mean seconds of a draft step."""
    predicted_step_s: float
    """Mean seconds of a draft step as the planner predicted them."""
    missed_drafts: int
    hit_rate: float
    """Share of the rounds whose verdict found a draft that was made for it meanwhile, of the rounds
    in modes that draft while the target verifies."""
    recovered_hit_rate: float
    """The same, of the rounds that rejected a draft token."""
    misses_unforeseen: int
    """Rounds whose verdict found drafts for other outcomes only."""
    misses_late: int
    """Rounds whose verdict found no draft because none had arrived yet."""
    misses_unasked: int
    """Rounds that asked for no draft."""
    guesses_per_round: float
    """Outcomes for which drafts were started."""
    drafted_per_token: float
    """Draft tokens made for each committed token: the price of foresight."""
    tokens_per_s_per_device: float
    drafter_lost: bool


def request_stats(result: Result, *, tp: int, drafter_tp: int) -> Stats:
    """Return the figures of one request."""
    return _stats([result], result.stats.total_s, tp=tp, drafter_tp=drafter_tp)


def total_stats(results: Iterable[Result], wall_s: float, *, tp: int, drafter_tp: int) -> Stats:
    """Return the figures of a run of `wall_s` seconds; its TTFT is the mean."""
    return _stats(
        [result for result in results if not result.error], wall_s, tp=tp, drafter_tp=drafter_tp
    )


def _stats(results: list[Result], wall_s: float, *, tp: int, drafter_tp: int) -> Stats:
    reports = [result.stats for result in results]
    num_tokens = sum(len(result.token_ids) for result in results)
    rounds = sum(report.rounds for report in reports)
    drafted = sum(report.drafted for report in reports)
    accepted = sum(report.accepted for report in reports)
    rejected = sum(report.rejected for report in reports)
    hits = sum(report.hits for report in reports)
    ahead = hits + sum(map(_num_misses, reports))
    return Stats(
        mode=str(results[0].submit.mode) if results else "",
        tp=tp,
        drafter_tp=drafter_tp,
        tokens_per_s=_ratio(num_tokens, wall_s),
        ttft_s=_ratio(sum(report.ttft_s for report in reports), len(reports)),
        rounds=rounds,
        drafted=drafted,
        accepted=accepted,
        acceptance_rate=_ratio(accepted, drafted),
        mean_accepted_length=_ratio(num_tokens, rounds),
        overlap=_ratio(
            sum(report.hidden_s for report in reports), sum(report.draft_s for report in reports)
        ),
        alpha=_ratio(accepted, accepted + rejected),
        layer_parallel=reports[-1].draft_width if reports else None,
        draft_step_s=_ratio(sum(report.draft_step_s for report in reports), len(reports)),
        predicted_step_s=_ratio(sum(report.predicted_step_s for report in reports), len(reports)),
        missed_drafts=sum(report.missed_drafts for report in reports),
        hit_rate=_ratio(hits, ahead),
        recovered_hit_rate=_ratio(sum(report.recovered_hits for report in reports), rejected),
        misses_unforeseen=sum(report.misses_unforeseen for report in reports),
        misses_late=sum(report.misses_late for report in reports),
        misses_unasked=sum(report.misses_unasked for report in reports),
        guesses_per_round=_ratio(sum(report.guesses for report in reports), ahead),
        drafted_per_token=_ratio(
            sum(report.drafted_ahead or report.drafted for report in reports), num_tokens
        ),
        tokens_per_s_per_device=_ratio(num_tokens, wall_s * (tp + drafter_tp)),
        drafter_lost=any(report.drafter_lost for report in reports),
    )


def output_console() -> Console:
    """Return the console for tables; output to a pipe is 140 columns wide."""
    return Console(width=None if sys.stdout.isatty() else 140)


def stats_json(stats: Stats) -> dict[str, object]:
    """Return the figures as a JSON object."""
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(stats).items()
    }


def stats_table(stats: Stats) -> Table:
    """Return the figures as a table to print."""
    table = Table(
        title=f"{stats.mode}, tp={stats.tp}, drafter tp={stats.drafter_tp}", show_header=False
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in (
        ("tokens/s", f"{stats.tokens_per_s:.1f}"),
        ("time to first token", f"{stats.ttft_s * 1000:.0f} ms"),
        ("rounds", str(stats.rounds)),
        ("drafted", str(stats.drafted)),
        ("accepted", str(stats.accepted)),
        ("acceptance rate", f"{stats.acceptance_rate:.2f}"),
        ("mean accepted length", f"{stats.mean_accepted_length:.2f}"),
        ("overlap", f"{stats.overlap:.0%}"),
    ):
        table.add_row(name, value)
    if stats.layer_parallel:
        table.add_row("draft layers at a time", str(stats.layer_parallel))
        table.add_row("draft step", f"{stats.draft_step_s * 1000:.1f} ms")
        table.add_row("draft step, predicted", f"{stats.predicted_step_s * 1000:.1f} ms")
    if stats.guesses_per_round:
        table.add_row("verdicts foreseen", f"{stats.hit_rate:.0%}")
        table.add_row("of those that reject a draft", f"{stats.recovered_hit_rate:.0%}")
        misses = f"{stats.misses_unforeseen} / {stats.misses_late} / {stats.misses_unasked}"
        table.add_row("others: not guessed / late / not asked", misses)
        table.add_row("guesses a round", f"{stats.guesses_per_round:.1f}")
        table.add_row("draft tokens made for a token", f"{stats.drafted_per_token:.1f}")
    if stats.missed_drafts:
        table.add_row("drafts that came too late", str(stats.missed_drafts))
    if stats.drafter_lost:
        table.add_row("drafter", "lost during the run")
    return table


def _num_misses(report: RequestStats) -> int:
    return report.misses_unforeseen + report.misses_late + report.misses_unasked


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
