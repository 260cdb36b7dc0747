"""Heartbeats of a deployment's ranks, and who has none."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.deploy.rank_actors import RankActor, is_done
from cluster.network.ray_errors import result_of
from runtime.errors import PacelineError, PeerTimeout
from runtime.heartbeat import ENDED, Beat

_EVERY_S = 1.0
_SLEEP_S = 3.0  # looks are a quarter of a second apart


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessLimits:
    """When a rank is taken for stuck."""

    step_s: float = 30.0
    """Longest step: one forward, one wait for the others."""
    answer_s: float = 15.0
    """Longest time without an answer to `beat`: a stopped process gives none."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A rank that does not get on, and how that shows."""

    rank: RankActor
    error: PeerTimeout
    state: str = ""
    """What it does; "" if it does not answer."""


@dataclass(slots=True)
class _Patient:
    rank: RankActor
    call: Any = None
    asked_s: float = 0.0
    beat: Beat | None = None


class LivenessMonitor:
    """Asks ranks how they are, without ever waiting for an answer."""

    def __init__(self, limits: LivenessLimits) -> None:
        self._limits = limits
        self._patients: dict[Any, _Patient] = {}
        self._looked_s = time.monotonic()

    def look(self, ranks: Iterable[RankActor]) -> list[Stuck]:
        """Take answers in, ask again, and return the ranks that are stuck."""
        self._forgive_own_sleep()
        ranks = list(ranks)
        known = {rank.actor: self._patients.get(rank.actor, _Patient(rank)) for rank in ranks}
        self._patients = known
        found = [self._examine(patient) for patient in known.values()]
        return [stuck for stuck in found if stuck is not None]

    def beats(self) -> list[tuple[str, Beat]]:
        """Return the last answers with their ranks' names; several drafters have the same ones."""
        return [
            (patient.rank.name, patient.beat)
            for patient in self._patients.values()
            if patient.beat is not None
        ]

    def _forgive_own_sleep(self) -> None:
        """Where this process itself stood still, nobody else is late by that."""
        now_s = time.monotonic()
        slept_s, self._looked_s = now_s - self._looked_s, now_s
        if slept_s > _SLEEP_S:
            for patient in self._patients.values():
                patient.asked_s += slept_s

    def _examine(self, patient: _Patient) -> Stuck | None:
        now_s = time.monotonic()
        if patient.call is not None and is_done(patient.call):
            try:
                patient.beat = result_of(patient.call, patient.rank.name)
            except PacelineError:
                return None  # it is dead; the error of its long call names the cause
            patient.call = None
        silent_s = now_s - patient.asked_s
        if patient.call is None and silent_s > _EVERY_S:
            patient.call, patient.asked_s = patient.rank.actor.beat.remote(), now_s
        elif patient.call is not None and silent_s > self._limits.answer_s:
            error = PeerTimeout(f"{patient.rank.name} has not answered for {silent_s:.0f} s")
            return Stuck(patient.rank, error)
        beat = patient.beat
        if beat is not None and beat.state != ENDED and beat.step_age_s > self._limits.step_s:
            where = f":\n{beat.stacks}" if beat.stacks else ""
            error = PeerTimeout(
                f"{patient.rank.name} (process {beat.pid}) has been {beat.state} for "
                f"{beat.step_age_s:.0f} s{where}"
            )
            return Stuck(patient.rank, error, beat.state)
        return None
