"""How many requests a gateway accepts, and the errors for those it rejects."""

from collections import Counter
from dataclasses import dataclass

from runtime.errors import PacelineError


class RequestRejected(PacelineError):
    """The request is invalid."""


class CallDenied(PacelineError):
    """The caller's token does not allow the call."""


class GatewayBusy(PacelineError):
    """Too many requests are open now."""


class GatewayDown(PacelineError):
    """The engine is gone, or the server is shutting down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """How many requests one gateway accepts."""

    max_open: int = 256
    """Samples queued or running."""
    max_open_per_client: int = 64
    grace_s: float = 30.0
    """How long a named request outlives its last reader, and its journal its end."""
    max_step_age_s: float = 60.0
    """The service is not ready once no engine has reported for this long."""

    def check(self, open_by_client: Counter[str], num_samples: int, client: str) -> None:
        """Raise unless a client may open so many more samples.

        Raises:
            GatewayBusy: it may later.
            RequestRejected: it never may.
        """
        for num_open, limit, owner in (
            (open_by_client.total(), self.max_open, "the server"),
            (open_by_client[client], self.max_open_per_client, "each client"),
        ):
            if num_samples > limit:
                raise RequestRejected(
                    f"the request has {num_samples} samples, {owner} may have {limit}: send fewer"
                )
            if num_open + num_samples > limit:
                raise GatewayBusy(
                    f"{num_open} requests are open, {owner} may have {limit}: try again later"
                )
