"""Who is served next: by priority, then fairly between clients, then in order of arrival.

Fair sharing counts the tokens that each client has been served (virtual token counter, Sheng et
al., arXiv 2401.00588, section 4): the client with the fewest is first, and one that was away
starts level with those that stayed.
"""

from collections.abc import Iterable, Iterator

from runtime.engine.sequence import DecodingSequence


class RequestQueue:
    """Requests that wait, and what their clients have been served."""

    def __init__(self) -> None:
        self._waiting: list[DecodingSequence] = []
        self._served: dict[str, float] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[DecodingSequence]:
        """Yield those that wait, in order of arrival."""
        return iter(self._waiting)

    def push(self, sequence: DecodingSequence, running: Iterable[DecodingSequence]) -> None:
        """Queue a request; one that was preempted keeps its place by its number.

        Args:
            sequence: the request.
            running: those that are being served.
        """
        client = sequence.submit.client
        active = {other.submit.client for other in (*self._waiting, *running)}
        if client not in active:
            level = min((self._served.get(name, 0.0) for name in active), default=0.0)
            self._served[client] = max(self._served.get(client, 0.0), level)
        self._waiting.append(sequence)

    def first(self) -> DecodingSequence:
        """Return the request that is next."""
        return min(self._waiting, key=self._place)

    def remove(self, sequence: DecodingSequence) -> None:
        """Take a request out."""
        self._waiting.remove(sequence)

    def charge(self, client: str, num_tokens: int) -> None:
        """Count tokens that a client was served."""
        self._served[client] = self._served.get(client, 0.0) + num_tokens

    def forget_absent(self, running: Iterable[DecodingSequence]) -> None:
        """Drop the counters of clients without requests, once the queue is empty."""
        if not self._waiting:
            active = {sequence.submit.client for sequence in running}
            self._served = {name: n for name, n in self._served.items() if name in active}

    def _place(self, sequence: DecodingSequence) -> tuple[bool, int, float, int]:
        submit = sequence.submit
        served = self._served.get(submit.client, 0.0)
        resumed = sequence.counters.preemptions > 0  # it holds up its client's stream
        return (not resumed, -submit.priority, served, sequence.number)
