"""The requests that a gateway knows: by number of each sample, and by their clients' names."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count

from parallel.messages import Submit
from runtime.gateway.journal import Journal, OpenRequest


class Register:
    """Lives on the gateway's loop; while samples are gone through, requests may come and go."""

    def __init__(self, restored: Iterable[OpenRequest] = ()) -> None:
        """Begin with the requests that an earlier process left."""
        self._open: dict[int, tuple[OpenRequest, Journal]] = {}
        self._requests: dict[OpenRequest, None] = {}
        self._names: dict[tuple[str, str], OpenRequest] = {}
        most = 0
        for request in restored:
            self._know(request)
            most = max(most, *(journal.submit.request for journal in request.samples))
        self._numbers = count(most + 1)

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
        """Samples queued or running, of each client."""
        return Counter(request.client for request, _ in self.open_samples())

    @property
    def num_running_by_replica(self) -> Counter[int]:
        """Samples that run on each engine."""
        on = (journal.replica for _, journal in self.open_samples())
        return Counter(replica for replica in on if replica is not None)

    @property
    def is_suspect_running(self) -> bool:
        """Whether a sample runs of which its engine may die."""
        return any(
            journal.is_suspect and journal.replica is not None for _, journal in self.open_samples()
        )

    def open_samples(self) -> Iterator[tuple[OpenRequest, Journal]]:
        """Yield the samples queued or running, each with its request."""
        yield from list(self._open.values())

    def sample(self, number: int) -> tuple[OpenRequest, Journal] | None:
        """Return the open sample of that number, with its request."""
        return self._open.get(number)

    def ended(self, journal: Journal) -> None:
        """Take a sample that has ended off the open ones."""
        self._open.pop(journal.submit.request, None)

    def find(self, client: str, name: str) -> OpenRequest | None:
        """Return a client's request by its name; "" is nobody's."""
        return self._names.get((client, name)) if name else None

    def add(self, submits: Sequence[Submit], *, client: str, name: str) -> OpenRequest:
        """Take in a new request; each of its samples gets a number."""
        numbered = [replace(submit, request=next(self._numbers)) for submit in submits]
        request = OpenRequest(
            client=client, name=name, samples=[Journal(submit=s) for s in numbered]
        )
        self._know(request)
        return request

    def drop(self, request: OpenRequest) -> None:
        """Forget a request."""
        for journal in request.samples:
            self._open.pop(journal.submit.request, None)
        self._requests.pop(request, None)
        if self._names.get((request.client, request.name)) is request:
            del self._names[request.client, request.name]

    def _know(self, request: OpenRequest) -> None:
        for journal in request.samples:
            if journal.is_open:
                self._open[journal.submit.request] = (request, journal)
        self._requests[request] = None
        if request.name:
            self._names[request.client, request.name] = request
