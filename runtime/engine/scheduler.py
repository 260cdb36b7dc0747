"""Which requests decode: which are admitted, grow, are preempted, or are late.

Requests wait in `request_queue.py`; those that run hold pages of the target's cache. A preempted
request gives its pages up and decodes again from its tokens, which stay as they are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runtime.engine.request_queue import RequestQueue
from runtime.engine.sequence import DecodingSequence
from runtime.rank.page_ledger import SlotLedger

_HEADROOM = 64
"""Tokens that a sequence may write beyond its committed ones in one round, drafts included."""


@dataclass(slots=True)
class SchedulerCounts:
    """Sums since the engine started."""

    preemptions: int = 0
    expired: int = 0
    prompt_tokens: int = 0
    """Prompt tokens of the admitted requests."""
    prefix_query_tokens: int = 0
    """Tokens that were looked up in the prefix cache."""
    prefix_hit_tokens: int = 0
    """Those of them that it held."""


class Scheduler:
    """The waiting and the running requests of one engine."""

    def __init__(
        self, ledger: SlotLedger, release: Callable[[DecodingSequence], None], *, max_batch: int
    ) -> None:
        """Start without requests.

        Args:
            ledger: the account of the target's cache.
            release: frees what a running sequence holds at the target and at its drafter.
            max_batch: the most sequences that run at once.
        """
        self._ledger = ledger
        self._release = release
        self._max_batch = max_batch
        self._waiting = RequestQueue()
        self.running: list[DecodingSequence] = []
        """In the order of their admission."""
        self.counts = SchedulerCounts()

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether there are no requests at all."""
        return not (self.running or len(self._waiting))

    def of_driver(self, driver: int, request: int | None = None) -> list[DecodingSequence]:
        """Return a driver's requests, waiting and running: all, or those of one number."""
        return [
            sequence
            for sequence in (*self._waiting, *self.running)
            if sequence.driver == driver and request in (None, sequence.submit.request)
        ]

    def push(self, sequence: DecodingSequence) -> None:
        """Queue a new request."""
        self._waiting.push(sequence, self.running)

    def charge(self, sequence: DecodingSequence, num_tokens: int) -> None:
        """Count tokens that a request's client was served."""
        self._waiting.charge(sequence.submit.client, num_tokens)

    def drop_expired(self, now_s: float) -> list[tuple[DecodingSequence, bool]]:
        """Drop the requests whose deadline passed; return each with whether it was running."""
        late = [s for s in (*self._waiting, *self.running) if now_s > s.deadline_s]
        found = [(sequence, sequence in self.running) for sequence in late]
        for sequence in late:
            self.counts.expired += 1
            self.drop(sequence)
        return found

    def admit(self, now_s: float) -> None:
        """Start waiting requests, the first of the queue first, while slots and pages last.

        Each reserves pages for all it may write if there are enough, else for what it has: it
        grows.
        """
        while len(self._waiting) and len(self.running) < self._max_batch:
            sequence = self._waiting.first()
            tokens, adapter = sequence.token_ids, sequence.submit.adapter
            sizes = (sequence.capacity, self._round_capacity(sequence))
            size = next((size for size in sizes if self._ledger.fits(size, tokens, adapter)), None)
            if size is None:
                break
            self._waiting.remove(sequence)
            self.running.append(sequence)
            sequence.num_cached = self._ledger.open(sequence.number, size, tokens, adapter)
            self.counts.prefix_query_tokens += len(tokens)
            self.counts.prefix_hit_tokens += sequence.num_cached
            counters = sequence.counters
            if counters.started_s is None:
                counters.started_s = now_s
                counters.cached_prompt = sequence.num_cached
                self.counts.prompt_tokens += sequence.num_prompt
                self.charge(sequence, sequence.num_prompt)
        self._waiting.forget_absent(self.running)

    def reserve_round(self) -> None:
        """Reserve the pages that each running request may write in the next round.

        Where pages are lacking, the request of the lowest seniority is preempted.
        """
        for sequence in sorted(self.running, key=_seniority):
            while sequence in self.running and not self._ledger.grow(
                sequence.number, self._round_capacity(sequence)
            ):
                self._preempt(max(self.running, key=_seniority))

    def record_prefixes(self, sequences: Iterable[DecodingSequence]) -> None:
        """Offer what sequences hold in the cache to requests that begin alike."""
        for sequence in sequences:
            self._ledger.record(sequence.number, sequence.token_ids, sequence.num_certain)

    def drop(self, sequence: DecodingSequence) -> None:
        """Remove a request from queue and cache; other requests may use what it had read."""
        if sequence in self.running:
            self.record_prefixes([sequence])
            self.discard(sequence)
        else:
            self._waiting.remove(sequence)

    def discard(self, sequence: DecodingSequence) -> None:
        """Remove a running request whose cache is not to be shared."""
        self.running.remove(sequence)
        self._release(sequence)

    def _preempt(self, sequence: DecodingSequence) -> None:
        self.counts.preemptions += 1
        self.discard(sequence)
        sequence.restart()
        self._waiting.push(sequence, self.running)

    def _round_capacity(self, sequence: DecodingSequence) -> int:
        """Return how long a sequence may become within the next round."""
        ahead = _HEADROOM + 2 * (sequence.draft_length or 0)
        return min(sequence.capacity, len(sequence.token_ids) + ahead)


def _seniority(sequence: DecodingSequence) -> tuple[int, int]:
    """Order sequences by which keeps its cache: priority, then arrival."""
    return -sequence.submit.priority, sequence.number
