"""Requests that wait until their constraint is compiled, beside the rounds."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from parallel.decoding.alignment import AlignedSample
from parallel.decoding.closing import ANY_LENGTH, completion
from parallel.messages import Submit
from runtime.constraints.compiler import Compiled, Constraints
from runtime.constraints.monitors import MonitorStart
from runtime.engine.aligning import Aligning
from runtime.errors import InvalidValue


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRequest:
    """A request that arrived and is not queued yet."""

    driver: int
    submit: Submit
    submitted_s: float
    aligned: AlignedSample | None = None
    """Where its output begins among the futures it shares; None if it is not aligned."""


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
        self._aligning = Aligning()
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
        found = self._find_completion if spec.close else self._ready
        prompt_ids = request.submit.prompt_ids

        def done(compiled: Compiled) -> None:
            if isinstance(compiled, MonitorStart):
                compiled = compiled.after_prompt(prompt_ids)
            found(ticket, compiled)

        self.constraints.compile(spec, done)

    def _find_completion(self, ticket: int, found: Compiled) -> None:
        """Search for what completes an output, in a thread: the search may take a second."""

        def search() -> None:
            if not isinstance(found, InvalidValue):
                completion(found, ANY_LENGTH)
            self._ready(ticket, found)

        threading.Thread(target=search, name="completion", daemon=True).start()

    def take(self, ticket: int) -> WaitingRequest | None:
        """Return the request of a ticket, which waits no longer; None if it was dropped."""
        found = self._waiting.pop(ticket, None)
        if found is None:
            return None
        return replace(found, aligned=self._aligning.sample_of(found.submit))

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
