"""Keeps when target and drafters worked in the latest rounds, for clients that watch an engine.

A drafter's time is reckoned from its request on, by the leader's clock: a drafter on another host
has another clock, and an answer that comes during a forward is only received after it. So the time
that a request travels counts as drafting.
"""

from collections import deque
from collections.abc import Iterable

from parallel.decoding.round_state import Commit, DraftAhead
from parallel.messages import EngineRound, Period
from runtime.timeline import NoRecorder, Recorder, SpanKind

_MOST = 1024
_WATCHED_S = 5.0


class RoundLog:
    """Makes a report of each round while a client watches; used by the leader's thread only.

    It is the recorder of the leader's spans, and passes them on to another one.
    """

    def __init__(self, recorder: Recorder | None = None, *, most: int = _MOST) -> None:
        """Keep no rounds until the first `take`.

        Args:
            recorder: receives every span too.
            most: how many rounds are kept; the oldest are dropped.
        """
        self._recorder = recorder or NoRecorder()
        self._reports: deque[EngineRound] = deque(maxlen=most)
        self._watched_until_s = 0.0
        self._asked_s: dict[tuple[int, int], float] = {}
        self._busy_until_s: dict[int, float] = {}
        self._forward: Period | None = None
        self._waits: list[Period] = []
        self._drafts: list[Period] = []

    def record(self, phase: SpanKind, start_s: float, end_s: float, size: int) -> None:
        """Record a span of the leader."""
        self._recorder.record(phase, start_s, end_s, size)
        match phase:
            case SpanKind.VERIFY:
                self._forward = Period(start_s, end_s)
            case SpanKind.WAIT:
                self._waits.append(Period(start_s, end_s))
            case SpanKind.DRAFT:
                self._drafts.append(Period(start_s, end_s))

    def asked(self, drafter: int, number: int, start_s: float) -> None:
        """Record when a drafter was sent its request of this number."""
        self._asked_s[drafter, number] = start_s

    def answered(self, drafter: int, number: int, draft_s: float) -> None:
        """Record a drafter's last part of an answer, and the seconds that it drafted for it."""
        asked_s = self._asked_s.pop((drafter, number), None)
        if asked_s is None:
            return
        start_s = max(asked_s, self._busy_until_s.get(drafter, asked_s))
        self._busy_until_s[drafter] = start_s + draft_s
        self._drafts.append(Period(start_s, start_s + draft_s))

    def end_round(self, commits: Iterable[Commit], *, reads_prompts: bool, now_s: float) -> None:
        """Make the report of a round from what was recorded since the last one."""
        found = list(commits)
        ahead = [one.ahead for one in found if one.ahead is not None]
        num_hits = ahead.count(DraftAhead.HIT)
        num_misses = len(ahead) - num_hits
        for kind, num in ((SpanKind.HIT, num_hits), (SpanKind.MISS, num_misses)):
            if num:
                self._recorder.record(kind, now_s, now_s, num)
        forward, waits, drafts = self._forward, tuple(self._waits), tuple(self._drafts)
        self._forward = None
        self._waits.clear()
        self._drafts.clear()
        if now_s > self._watched_until_s:
            self._reports.clear()
            self._asked_s.clear()
            self._busy_until_s.clear()
            return
        if forward is None:
            return
        self._reports.append(
            EngineRound(
                forward=forward,
                waits=waits,
                drafts=drafts,
                num_samples=len(found),
                num_tokens=sum(len(one.token_ids) for one in found),
                num_drafted=sum(one.num_drafted for one in found),
                num_accepted=sum(one.num_accepted for one in found),
                num_rejected=sum(one.rejected for one in found),
                num_hits=num_hits,
                num_misses=num_misses,
                reads_prompts=reads_prompts,
            )
        )

    def take(self, now_s: float) -> tuple[EngineRound, ...]:
        """Return the reports since the last call and forget them; keep those of the next 5 s."""
        self._watched_until_s = now_s + _WATCHED_S
        taken = tuple(self._reports)
        self._reports.clear()
        return taken
