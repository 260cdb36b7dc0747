"""One call for generation over HTTP: it is counted once, whatever its end."""

import time

from runtime.errors import PacelineError
from runtime.gateway.gateway import Gateway
from runtime.gateway.journal import OpenRequest
from runtime.gateway.metrics import EndReason


class HttpCall:
    """Reads a request from acceptance until the call ends."""

    def __init__(self, gateway: Gateway, client: str) -> None:
        """Start with the arrival of a call; `end` must follow."""
        self.client = client
        self._begun_s = time.monotonic()
        self.name = ""
        self._gateway = gateway
        self._request: OpenRequest | None = None
        self._is_rejected = False

    def time_left_s(self, timeout_s: float | None) -> float | None:
        """Return the seconds until a limit, counted from the call's arrival, has passed."""
        return None if timeout_s is None else self._begun_s + timeout_s - time.monotonic()

    def accept(self, request: OpenRequest) -> None:
        """Count the call as a reader of a request until the call ends."""
        self._request = request
        self._gateway.add_reader(request)

    def reject(self, error: PacelineError) -> None:
        """Record the call as rejected, unless it was accepted before."""
        if self._request is None:
            self._is_rejected = True
            self._gateway.endings.rejected(self.client, self.name, error)

    def end(self) -> None:
        """End the call: without other readers its request ends, or waits if it has a name."""
        if self._request is not None:
            self._gateway.remove_reader(self._request)
        elif not self._is_rejected:
            self._gateway.endings.left(self.client, self.name, EndReason.CANCELLED)
