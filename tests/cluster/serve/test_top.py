"""What `paceline top` shows is computed from two answers of the server."""

import io
from dataclasses import replace

from rich.console import Console

from cluster.serve.top import look, view
from runtime.client import EngineStatus, RankStatus, ReplicaStatus, ServerStatus

IDLE = RankStatus(name="target rank 0", pid=1, state="idle", step_age_s=0.5)
SLOW = RankStatus(name="drafter rank 0", pid=2, state="drafting", step_age_s=7.25)
ENGINE = EngineStatus(
    tokens=100, rounds=40, drafted=50, accepted=20, draft_s=1.0, hidden_s=0.5, target_s=3.0, pages=8
)
BEFORE = ServerStatus(
    ready=True,
    draining=False,
    uptime_s=10.0,
    step_age_s=0.1,
    open_requests=64,
    max_open_requests=256,
    finished_requests=5,
    rejected_requests=2,
    engine=ENGINE,
    replicas=(
        ReplicaStatus(
            replica=0,
            state="serving",
            step_age_s=0.1,
            open_requests=64,
            restarts=3,
            engine=ENGINE,
            ranks=(IDLE, SLOW),
        ),
    ),
)


def later() -> ServerStatus:
    engine = replace(
        ENGINE,
        tokens=140,
        rounds=50,
        drafted=90,
        accepted=50,
        draft_s=3.0,
        hidden_s=2.0,
        target_s=4.0,
    )
    return replace(BEFORE, engine=engine)


def test_rates_are_those_between_the_two_answers() -> None:
    seen = look(BEFORE, later(), 2.0)
    assert (seen.tokens_per_s, seen.rounds_per_s) == (20.0, 5.0)
    assert (seen.acceptance, seen.overlap, seen.target_busy) == (0.75, 0.75, 0.5)
    assert (seen.restarts, seen.replicas) == (3, ("serving",))


def test_nothing_done_between_the_answers_is_no_division_by_zero() -> None:
    seen = look(BEFORE, BEFORE, 1.0)
    assert (seen.acceptance, seen.overlap, seen.tokens_per_s) == (0.0, 0.0, 0.0)


def test_the_slowest_rank_is_named_with_its_state() -> None:
    assert look(BEFORE, later(), 1.0).slowest == "drafter rank 0 drafting for 7.2 s"
    alone = replace(BEFORE, replicas=())
    assert look(alone, alone, 1.0).slowest == ""


def test_the_state_says_whether_the_server_drains_or_is_ready() -> None:
    for draining, ready, state in (
        (True, True, "draining"),
        (False, True, "ready"),
        (False, False, "not ready"),
    ):
        now = replace(BEFORE, draining=draining, ready=ready)
        assert look(BEFORE, now, 1.0).state == state


def test_the_view_shows_every_figure_on_a_line_of_its_own() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(view("host:1", look(BEFORE, later(), 2.0)))
    text = console.export_text()
    assert "host:1: ready, up 10.0 s" in text
    assert "20.0 /s" in text
    assert "3 restarts; drafter rank 0 drafting for 7.2 s" in text
