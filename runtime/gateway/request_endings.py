"""Count and log each request once, when it ends.

Each call of Generate is recorded exactly once: with its request when the last sample has ended, or
without one if the call was rejected, or ended before it was accepted.
"""

import logging

from runtime.errors import PacelineError
from runtime.gateway.journal import OpenRequest
from runtime.gateway.limits import CallDenied, GatewayBusy, GatewayDown
from runtime.gateway.metrics import EndReason, RejectionReason, ServiceMetrics

_LOG = logging.getLogger("paceline.gateway")


class Endings:
    """Counts and logs the ends of requests."""

    def __init__(self, metrics: ServiceMetrics) -> None:
        self._metrics = metrics

    def ended(self, request: OpenRequest) -> None:
        """Record a request whose samples have all ended."""
        self._metrics.count_ended(request.end_reason, request.num_prompt_tokens)
        _LOG.info("request ended", extra=request.report())

    def rejected(self, client: str, name: str, error: PacelineError) -> None:
        """Record a call that was rejected with an error."""
        match error:
            case GatewayBusy():
                reason = RejectionReason.BUSY
            case GatewayDown():
                reason = RejectionReason.UNAVAILABLE
            case CallDenied():
                reason = RejectionReason.DENIED
            case _:
                reason = RejectionReason.INVALID
        self._metrics.count_rejected(reason)
        fields = {"client": client, "request_id": name, "reason": reason.name.lower()}
        _LOG.info("request rejected", extra=fields | {"cause": str(error)})

    def left(self, client: str, name: str, reason: EndReason) -> None:
        """Record a call that ended before it was accepted or rejected."""
        self._metrics.count_ended(reason, 0)
        fields = {"client": client, "request_id": name, "reason": reason.name.lower()}
        _LOG.info("request ended", extra=fields | {"completion_tokens": 0})
