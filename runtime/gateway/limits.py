"""How much a gateway takes on, and what it says to what it does not."""

from collections import Counter
from dataclasses import dataclass

from runtime.errors import PacelineError


class RequestRefused(PacelineError):
    """The request itself cannot be served."""


class CallDenied(PacelineError):
    """The caller's token does not allow the call."""


class GatewayBusy(PacelineError):
    """There is no room for another request now."""


class GatewayDown(PacelineError):
    """The engine is gone, or is going."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """How much one gateway takes on."""

    max_open: int = 256
    """Requests queued or running, each of n samples counted."""
    max_open_per_client: int = 64
    grace_s: float = 30.0
    """How long a named request outlives its client, and its journal the request."""
    max_step_age_s: float = 60.0
    """Silence of the leader after which the service is not ready."""

    def check(self, open_by_client: Counter[str], num_samples: int, client: str) -> None:
        """Raise GatewayBusy unless there is room for so many samples more of a client."""
        for num, most, whose in (
            (open_by_client.total(), self.max_open, "the server's"),
            (open_by_client[client], self.max_open_per_client, "this client's"),
        ):
            if num + num_samples > most:
                raise GatewayBusy(
                    f"{num} requests are open, {most} are {whose} most: try again later"
                )
