"""One engine behind a gateway: its link while there is one, and what it said of itself last."""

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
News = Message | PacelineError
"""What an engine says, or why it says no more."""


_NOTHING_NOW: dict[str, Any] = {
    "running": 0,
    "waiting": 0,
    "pages_used": 0,
    "pages": 0,
    "drafter": "",
    "drafters": 0,
}


class Replica:
    """One of a gateway's engines. It may be lost and come back as another process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: Link | None = None
        self.heard_s = time.monotonic()
        self._now, self._before = EngineStatus(), EngineStatus()
        self.error: PacelineError | None = None
        """Why it is not there; None while it is."""
        self.is_gone = False
        """Whether nobody starts it anew."""
        self.beats: Sequence[tuple[str, Beat]] = ()
        """How its ranks are, with their names; kept by whoever supervises it."""
        self.num_attached = 0
        """Times an engine was attached."""

    @property
    def is_up(self) -> bool:
        """Whether requests can be sent to it."""
        return self.link is not None

    @property
    def state(self) -> str:
        """What an administrator calls its state."""
        if self.is_up:
            return "serving"
        return "gone" if self.is_gone else "lost"

    @property
    def step_age_s(self) -> float:
        """Seconds since it last gave a sign of life."""
        return time.monotonic() - self.heard_s

    @property
    def status(self) -> EngineStatus:
        """What it does now, and all that it and those before it have done."""
        return added(self._before, self._now)

    def tell(self, status: EngineStatus) -> None:
        """Take in what the engine says of itself."""
        self._now = status

    def attach(self, link: Link, hand_over: Callable[["Replica", Link, News], None]) -> None:
        """Listen to an engine (in a thread: links block), until it is detached."""
        self.link, self.error, self.heard_s = link, None, time.monotonic()
        self.num_attached += 1
        reading = threading.Thread(
            target=self._read, args=(link, hand_over), name="gateway-reader", daemon=True
        )
        reading.start()

    def detach(self, error: PacelineError) -> None:
        """Let the engine go; whatever it says from now on is not heard: that is the fence."""
        link, self.link, self.error = self.link, None, error
        self._before, self._now = replace(self.status, **_NOTHING_NOW), EngineStatus()
        if link is not None:  # closing waits for what is on its way out
            threading.Thread(target=link.close, name="gateway-closer", daemon=True).start()

    def _read(self, link: Link, hand_over: Callable[["Replica", Link, News], None]) -> None:
        while self.link is link:
            try:
                news: News | None = link.recv(_POLL_S)
            except PacelineError as error:
                news = error
            if news is None:
                continue
            try:
                hand_over(self, link, news)
            except RuntimeError:  # the loop has ended
                return
            if isinstance(news, PacelineError):
                return


def added(one: EngineStatus, other: EngineStatus) -> EngineStatus:
    """Return what two engines do and have done together."""
    sums: dict[str, Any] = {
        field.name: getattr(one, field.name) + getattr(other, field.name)
        for field in fields(EngineStatus)
        if field.name != "drafter"
    }
    return EngineStatus(drafter=one.drafter or other.drafter, **sums)
