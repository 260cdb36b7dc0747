"""One engine behind a gateway: its link while it is up, and its latest report."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

from parallel.messages import EngineStatus, Message
from runtime.errors import PacelineError
from runtime.heartbeat import Beat
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.gateway")
_POLL_S = 0.5
EngineEvent = Message | PacelineError
"""A message of an engine, or why there are no more."""


_NOTHING_RUNNING: dict[str, Any] = {
    "running": 0,
    "waiting": 0,
    "pages_used": 0,
    "pages": 0,
    "drafter": "",
    "drafters": 0,
}


class Replica:
    """One of a gateway's engines, which may be lost and come back as another process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: Link | None = None
        self.last_seen_s = time.monotonic()
        self._current, self._total_before = EngineStatus(), EngineStatus()
        self.error: PacelineError | None = None
        """Why it is not up; None while it is."""
        self.is_gone = False
        """Whether it is not restarted."""
        self.beats: Sequence[tuple[str, Beat]] = ()
        """The names and heartbeats of its ranks; the supervisor updates them."""
        self.num_attached = 0
        """Times that an engine was attached."""

    @property
    def is_up(self) -> bool:
        """Whether it accepts requests."""
        return self.link is not None

    @property
    def state(self) -> str:
        """Its state, as the API names it."""
        if self.is_up:
            return "serving"
        return "gone" if self.is_gone else "lost"

    @property
    def step_age_s(self) -> float:
        """Seconds since it last reported."""
        return time.monotonic() - self.last_seen_s

    @property
    def status(self) -> EngineStatus:
        """Its present state, with the counts of its lost predecessors added."""
        return combined(self._total_before, self._current)

    def report(self, status: EngineStatus) -> None:
        """Store the engine's latest status."""
        self._current = status

    def attach(self, link: Link, post: Callable[["Replica", Link, EngineEvent], None]) -> None:
        """Listen to an engine in a thread, because links block, until it is detached."""
        self.link, self.error, self.last_seen_s = link, None, time.monotonic()
        self.num_attached += 1
        reading = threading.Thread(
            target=self._read, args=(link, post), name="gateway-reader", daemon=True
        )
        reading.start()

    def detach(self, error: PacelineError) -> None:
        """Disconnect the engine; later messages from it are ignored."""
        link, self.link, self.error = self.link, None, error
        self._total_before = replace(self.status, **_NOTHING_RUNNING)
        self._current = EngineStatus()
        if link is not None:  # closing waits until queued messages are sent
            threading.Thread(target=link.close, name="gateway-closer", daemon=True).start()

    def _read(self, link: Link, post: Callable[["Replica", Link, EngineEvent], None]) -> None:
        while self.link is link:
            try:
                event: EngineEvent | None = link.recv(_POLL_S)
            except PacelineError as error:
                event = error
            if event is None:
                continue
            try:
                post(self, link, event)
            except RuntimeError:  # the loop has ended
                return
            if isinstance(event, PacelineError):
                return


def combined(one: EngineStatus, other: EngineStatus) -> EngineStatus:
    """Return the status of two engines together."""
    sums: dict[str, Any] = {
        field.name: getattr(one, field.name) + getattr(other, field.name)
        for field in fields(EngineStatus)
        if field.name != "drafter"
    }
    return EngineStatus(drafter=one.drafter or other.drafter, **sums)
