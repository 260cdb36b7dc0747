"""Heartbeats of a deployment's ranks, and the ranks that are stuck."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.deploy.rank_actors import RankActor, is_done
from cluster.network.ray_errors import result_of
from runtime.errors import PacelineError, PeerTimeout
from runtime.heartbeat import ENDED, Beat

_INTERVAL_S = 1.0
_SUSPENDED_S = 3.0  # checks are a quarter of a second apart


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessLimits:
    """When a rank counts as stuck."""

    step_s: float = 30.0
    """Longest step: one forward, one wait for the others."""
    answer_s: float = 15.0
    """Longest time without an answer to `beat`: a stopped process does not answer."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A rank that makes no progress, with the evidence."""

    rank: RankActor
    error: PeerTimeout
    state: str = ""
    """Its state; "" if it does not answer."""


@dataclass(slots=True)
class _WatchedRank:
    rank: RankActor
    call: Any = None
    polled_s: float = 0.0
    beat: Beat | None = None


class LivenessMonitor:
    """Polls the heartbeats of ranks without waiting for an answer."""

    def __init__(self, limits: LivenessLimits) -> None:
        self._limits = limits
        self._watched: dict[Any, _WatchedRank] = {}
        self._last_check_s = time.monotonic()

    def check(self, ranks: Iterable[RankActor]) -> list[Stuck]:
        """Collect answers, poll again, and return the ranks that are stuck."""
        self._discount_own_suspension()
        ranks = list(ranks)
        known = {rank.actor: self._watched.get(rank.actor, _WatchedRank(rank)) for rank in ranks}
        self._watched = known
        found = [self._check_rank(each) for each in known.values()]
        return [stuck for stuck in found if stuck is not None]

    def beats(self) -> list[tuple[str, Beat]]:
        """Return the last heartbeats with their ranks' names; drafters may share a name."""
        return [
            (each.rank.name, each.beat) for each in self._watched.values() if each.beat is not None
        ]

    def _discount_own_suspension(self) -> None:
        """Do not count time in which this process was suspended itself."""
        now_s = time.monotonic()
        suspended_s, self._last_check_s = now_s - self._last_check_s, now_s
        if suspended_s > _SUSPENDED_S:
            for each in self._watched.values():
                each.polled_s += suspended_s

    def _check_rank(self, each: _WatchedRank) -> Stuck | None:
        now_s = time.monotonic()
        if each.call is not None and is_done(each.call):
            try:
                each.beat = result_of(each.call, each.rank.name)
            except PacelineError:
                return None  # it is dead; the error of its long call names the cause
            each.call = None
        silent_s = now_s - each.polled_s
        if each.call is None and silent_s > _INTERVAL_S:
            each.call, each.polled_s = each.rank.actor.beat.remote(), now_s
        elif each.call is not None and silent_s > self._limits.answer_s:
            error = PeerTimeout(f"{each.rank.name} has not answered for {silent_s:.0f} s")
            return Stuck(each.rank, error)
        beat = each.beat
        if beat is not None and beat.state != ENDED and beat.step_age_s > self._limits.step_s:
            where = f":\n{beat.stacks}" if beat.stacks else ""
            error = PeerTimeout(
                f"{each.rank.name} (process {beat.pid}) has been {beat.state} for "
                f"{beat.step_age_s:.0f} s{where}"
            )
            return Stuck(each.rank, error, beat.state)
        return None
