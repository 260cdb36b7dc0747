"""`paceline top`: a live view of a server."""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cluster.network.server_connection import connected
from cluster.options.client_options import AdminStatusOptions, TopOptions
from runtime.client import ReplicaStatus, ServerStatus

_BAR = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The state of a server, and its rates since the look before."""

    state: str
    """"ready", "draining" or "not ready"."""
    uptime_s: float
    step_age_s: float
    open_requests: int
    max_open_requests: int
    finished_requests: int
    rejected_requests: int
    running: int
    waiting: int
    drafter: str
    drafters: int
    """Number of drafters attached, on all replicas."""
    replicas: tuple[str, ...]
    """State of each: "serving", "lost" or "gone"."""
    restarts: int
    """Times that replicas were restarted."""
    slowest: str
    """The rank whose last step is the oldest, and its state."""
    tokens_per_s: float
    rounds_per_s: float
    acceptance: float
    """Share of the draft tokens that were accepted."""
    overlap: float
    """Share of the drafting time that the target overlapped."""
    target_busy: float
    """Share of the time in the target's forwards."""
    tokens: int
    missed_drafts: int
    pages_used: int
    pages: int
    prefix_hit_tokens: int
    preemptions: int
    expired: int


def run(options: TopOptions) -> int:
    """Show a server until interrupted; return the exit code.

    Raises:
        ConfigError: the server rejected the credentials.
        ServiceError: the server was unreachable.
    """
    screen = not (options.once or options.json)
    with (
        connected(options.connect) as client,
        Live(auto_refresh=False, screen=True) if screen else nullcontext() as live,
    ):
        before, before_s = client.status(), time.monotonic()
        while True:
            time.sleep(options.interval_s)
            now, now_s = client.status(), time.monotonic()
            seen = look(before, now, now_s - before_s)
            if options.json:
                print(json.dumps(asdict(seen)), flush=True)
            elif live is None:
                Console().print(view(options.connect.server, seen))
            else:
                live.update(view(options.connect.server, seen), refresh=True)
            if options.once:
                return 0
            before, before_s = now, now_s


def show_once(options: AdminStatusOptions) -> int:
    """Show a server once; return the exit code, and raise as `run` does."""
    return run(TopOptions(connect=options.connect, once=True, json=options.json))


def look(earlier: ServerStatus, later: ServerStatus, seconds: float) -> Look:
    """Return the state and the rates of a server, from two statuses and the time between them."""
    before, now = earlier.engine, later.engine
    state = "draining" if later.draining else "ready" if later.ready else "not ready"
    return Look(
        state=state,
        uptime_s=round(later.uptime_s, 1),
        step_age_s=round(later.step_age_s, 2),
        open_requests=later.open_requests,
        max_open_requests=later.max_open_requests,
        finished_requests=later.finished_requests,
        rejected_requests=later.rejected_requests,
        running=now.running,
        waiting=now.waiting,
        drafter=now.drafter,
        drafters=now.drafters,
        replicas=tuple(replica.state for replica in later.replicas),
        restarts=sum(replica.restarts for replica in later.replicas),
        slowest=_slowest(later.replicas),
        tokens_per_s=round((now.tokens - before.tokens) / seconds, 1),
        rounds_per_s=round((now.rounds - before.rounds) / seconds, 1),
        acceptance=_share(now.accepted - before.accepted, now.drafted - before.drafted),
        overlap=_share(now.hidden_s - before.hidden_s, now.draft_s - before.draft_s),
        target_busy=_share(now.target_s - before.target_s, seconds),
        tokens=now.tokens,
        missed_drafts=now.missed_drafts,
        pages_used=now.pages_used,
        pages=now.pages,
        prefix_hit_tokens=now.prefix_hit_tokens,
        preemptions=now.preemptions,
        expired=now.expired,
    )


def view(server: str, seen: Look) -> Table:
    """Return one look as a table."""
    table = Table(title=f"{server}: {seen.state}, up {seen.uptime_s} s", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    rows = (
        (
            "requests",
            f"{seen.running} running, {seen.waiting} queued",
            _bar(_share(seen.open_requests, seen.max_open_requests)),
        ),
        ("tokens", f"{seen.tokens_per_s} /s", f"{seen.tokens} in all"),
        ("acceptance", f"{seen.acceptance}", _bar(seen.acceptance)),
        ("overlap", f"{seen.overlap}", _bar(seen.overlap)),
        ("target busy", f"{seen.target_busy}", _bar(seen.target_busy)),
        (
            "cache pages",
            f"{seen.pages_used} of {seen.pages}",
            _bar(_share(seen.pages_used, seen.pages)),
        ),
        (
            "drafter",
            seen.drafter or "none",
            f"{seen.drafters} attached, {seen.missed_drafts} drafts missed",
        ),
        ("replicas", ", ".join(seen.replicas), f"{seen.restarts} restarts; {seen.slowest}"),
        (
            "since start",
            f"{seen.finished_requests} finished, {seen.rejected_requests} rejected",
            f"{seen.expired} expired, {seen.preemptions} preempted, "
            f"{seen.prefix_hit_tokens} tokens found in the cache",
        ),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _slowest(replicas: Sequence[ReplicaStatus]) -> str:
    ranks = [rank for replica in replicas for rank in replica.ranks]
    if not ranks:
        return ""
    oldest = max(ranks, key=lambda rank: rank.step_age_s)
    return f"{oldest.name} {oldest.state} for {oldest.step_age_s:.1f} s"


def _share(part: float, whole: float) -> float:
    return round(part / whole, 3) if whole else 0.0


def _bar(share: float) -> str:
    full = round(max(0.0, min(1.0, share)) * _BAR)
    return "█" * full + "░" * (_BAR - full)
