"""Requests that wait until their constraint is compiled, beside the rounds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

from parallel.messages import Submit
from runtime.constraints.compiler import Compiled, Constraints


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRequest:
    """A request that arrived and is not queued yet."""

    driver: int
    submit: Submit
    submitted_s: float


class Compiling:
    """The requests that wait, by ticket; the leader's thread does all but compile."""

    def __init__(
        self, constraints: Constraints | None, ready: Callable[[int, Compiled], None]
    ) -> None:
        """Begin without requests.

        Args:
            constraints: what compiles; None where no request may have a constraint.
            ready: is called from any thread with a ticket and what came of it.
        """
        self.constraints = constraints
        self._ready = ready
        self._tickets = count(1)
        self._waiting: dict[int, WaitingRequest] = {}

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._waiting)

    def start(self, request: WaitingRequest) -> None:
        """Compile a request's constraint."""
        spec = request.submit.sampling.constraint
        assert spec is not None
        assert self.constraints is not None
        ticket = next(self._tickets)
        self._waiting[ticket] = request
        self.constraints.compile(spec, partial(self._ready, ticket))

    def take(self, ticket: int) -> WaitingRequest | None:
        """Return the request of a ticket, which waits no longer; None if it was dropped."""
        return self._waiting.pop(ticket, None)

    def drop(self, driver: int, number: int | None = None) -> list[WaitingRequest]:
        """Return a driver's requests, or the one of a number, which wait no longer."""
        tickets = [
            ticket
            for ticket, one in self._waiting.items()
            if one.driver == driver and number in (None, one.submit.request)
        ]
        return [self._waiting.pop(ticket) for ticket in tickets]

    def close(self) -> None:
        """End what compiles."""
        if self.constraints is not None:
            self.constraints.close()
