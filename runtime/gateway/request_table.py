"""The requests that a gateway knows, by the number of each sample and by name."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count

from parallel.messages import Submit
from runtime.gateway.journal import Journal, OpenRequest


class RequestTable:
    """Finds requests; they may be added and dropped while `open_samples` is iterated."""

    def __init__(self, restored: Iterable[OpenRequest] = ()) -> None:
        """Start with the requests that an earlier process stored."""
        self._open: dict[int, tuple[OpenRequest, Journal]] = {}
        self._requests: dict[OpenRequest, None] = {}
        self._names: dict[tuple[str, str], OpenRequest] = {}
        last = 0
        for request in restored:
            self._insert(request)
            last = max(last, *(journal.submit.request for journal in request.samples))
        self._numbers = count(last + 1)

    @property
    def requests(self) -> list[OpenRequest]:
        """All requests, oldest first."""
        return list(self._requests)

    @property
    def num_open(self) -> int:
        """Samples queued or running."""
        return len(self._open)

    @property
    def num_open_by_client(self) -> Counter[str]:
        """Number of samples queued or running, for each client."""
        return Counter(request.client for request, _ in self.open_samples())

    @property
    def num_running_by_replica(self) -> Counter[int]:
        """Number of samples that run on each engine."""
        on = (journal.replica for _, journal in self.open_samples())
        return Counter(replica for replica in on if replica is not None)

    @property
    def is_suspect_running(self) -> bool:
        """Whether a sample runs that may be the cause of engine losses."""
        return any(
            journal.is_suspect and journal.replica is not None for _, journal in self.open_samples()
        )

    def open_samples(self) -> Iterator[tuple[OpenRequest, Journal]]:
        """Yield the samples queued or running, each with its request."""
        yield from list(self._open.values())

    def sample(self, number: int) -> tuple[OpenRequest, Journal] | None:
        """Return the open sample of a number, with its request."""
        return self._open.get(number)

    def ended(self, journal: Journal) -> None:
        """Remove a sample that has ended from the open ones."""
        self._open.pop(journal.submit.request, None)

    def find(self, client: str, name: str) -> OpenRequest | None:
        """Return a client's request by its name; "" finds none."""
        return self._names.get((client, name)) if name else None

    def add(self, submits: Sequence[Submit], *, client: str, name: str) -> OpenRequest:
        """Add a new request; each of its samples gets a number."""
        numbered = [replace(submit, request=next(self._numbers)) for submit in submits]
        request = OpenRequest(
            client=client, name=name, samples=[Journal(submit=s) for s in numbered]
        )
        self._insert(request)
        return request

    def drop(self, request: OpenRequest) -> None:
        """Remove a request."""
        for journal in request.samples:
            self._open.pop(journal.submit.request, None)
        self._requests.pop(request, None)
        if self._names.get((request.client, request.name)) is request:
            del self._names[request.client, request.name]

    def _insert(self, request: OpenRequest) -> None:
        for journal in request.samples:
            if journal.is_open:
                self._open[journal.submit.request] = (request, journal)
        self._requests[request] = None
        if request.name:
            self._names[request.client, request.name] = request
