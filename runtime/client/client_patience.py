"""How long a client waits for a server that is away, and which failures it retries."""

import logging
import random
from collections.abc import Callable
from typing import Any

import grpc

from runtime.channels.handshakes import explained, lasting_failure
from runtime.clock import Clock, MonotonicClock
from runtime.errors import InvalidValue

PATIENCE_S = 120.0
"""A server that was killed answers again after 20 to 70 s: docs/failures.md."""
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_LOG = logging.getLogger("paceline.client")


class ClientPatience:
    """A budget of seconds without an answer from the server; each answer restores it."""

    def __init__(
        self,
        server: str,
        budget_s: float,
        on_wait: Callable[[str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Start with the full budget.

        Args:
            server: its address, for log messages.
            budget_s: how long to retry without an answer; 0 never retries.
            on_wait: called when a wait begins; None writes a warning to the log.
            clock: None reads the machine's.

        Raises:
            InvalidValue: the budget is negative or not a number.
        """
        if not budget_s >= 0:
            raise InvalidValue(f"`patience_s` is {budget_s:g}: give 0 or more seconds")
        self._server = server
        self._budget_s = budget_s
        self._on_wait = on_wait or _LOG.warning
        self._clock = clock or MonotonicClock()
        self._random = random.Random()
        self._failed_s: float | None = None
        """Time of the first failure since the last answer; None without a failure."""
        self._wait_s = _FIRST_WAIT_S

    def answered(self) -> None:
        """Restore the budget after an answer."""
        self._failed_s = None
        self._wait_s = _FIRST_WAIT_S

    def wait_s(self, error: grpc.RpcError, left_s: float | None = None) -> float:
        """Return how long to wait before the next attempt.

        Args:
            error: how the call failed.
            left_s: seconds until the caller's own deadline; None without one.

        Raises:
            grpc.RpcError: the given error, if it is not worth a retry or the budget is spent.
        """
        least_s = _retry_wait_s(error)
        if least_s is None:
            raise error
        now_s = self._clock.now_s()
        is_first = self._failed_s is None
        if self._failed_s is None:
            self._failed_s = now_s
        rest_s = self._failed_s + self._budget_s - now_s
        wait_s = max(self._wait_s * (0.5 + self._random.random()), least_s)
        if rest_s <= 0 or (left_s is not None and wait_s >= left_s):
            raise error
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        if is_first:
            reason = f"{error.code().name}: {explained(error.details())}"
            self._on_wait(
                f"waiting for the server at {self._server}, at most {rest_s:.0f} s ({reason})"
            )
        return min(wait_s, rest_s)


def _retry_wait_s(error: grpc.RpcError) -> float | None:
    """Return the shortest wait before a retry, or None for a failure that a retry cannot mend.

    UNAVAILABLE means that the connection failed or that the server is restarting; requests have
    names, so a retry never runs one twice. A rejected certificate stays rejected.
    RESOURCE_EXHAUSTED is worth a retry only with `retry-after` from the server: gRPC also uses the
    status for a message that is too large.
    """
    code = error.code()
    after_s = _retry_after_s(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        return None if lasting_failure(error.details()) else after_s or 0.0
    return after_s if code is grpc.StatusCode.RESOURCE_EXHAUSTED else None


def _retry_after_s(error: Any) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after":
            try:
                return max(0.0, float(value))
            except ValueError:
                return None
    return None
