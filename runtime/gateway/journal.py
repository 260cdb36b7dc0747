"""What a gateway knows of a request: who asks, and the tokens of each of its samples."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

from parallel.decoding.types import TokenLogprobs
from parallel.messages import Committed, Finished, Submit
from runtime.errors import DeadlineExceeded, PacelineError
from runtime.gateway.metrics import EndReason, ServiceMetrics

_LEAST_S = 1e-3  # 0 would be no deadline
_PIECE_TOKENS = 256
"""Tokens that a reader gets at once: with log probabilities, some 50 kB."""
_SUSPECTED = 2
_GIVEN_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """News of one sample: tokens, or its end."""

    sample: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finished: Finished | None = None


@dataclass(slots=True, kw_only=True)
class Journal:
    """One sample's tokens, and how it ended."""

    submit: Submit
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finished: Finished | None = None
    error: PacelineError | None = None
    last_s: float = field(default_factory=time.monotonic)
    """When it was submitted, or tokens came last."""
    replica: int | None = None
    """Where it runs; None: it waits for an engine."""
    is_cancelled: bool = False
    """Whether it is to end early."""
    is_late: bool = False
    """Whether it is to end early because its client's deadline passed."""
    num_sent: int = 0
    """Times it was sent to an engine."""
    num_stalled: int = 0
    """Times in a row that an engine was lost with it before it brought a token."""
    submitted_s: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    ended_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether more tokens may come."""
        return self.finished is None and self.error is None

    @property
    def end_reason(self) -> EndReason:
        """How it ended; it must have."""
        if self.finished is not None:
            return EndReason[self.finished.reason.upper()]
        assert self.error is not None, "the sample is open"
        late = isinstance(self.error, DeadlineExceeded)
        return EndReason.DEADLINE if late else EndReason.ERROR

    @property
    def is_suspect(self) -> bool:
        """Whether engines may die of it: others that may be are not tried at the same time."""
        return self.num_stalled >= _SUSPECTED

    @property
    def is_given_up(self) -> bool:
        """Whether it was lost with an engine once more when it was the only suspect."""
        return self.num_stalled >= _GIVEN_UP

    def take(self, message: Committed, metrics: ServiceMetrics) -> None:
        """Take tokens in."""
        self.num_stalled = 0
        now_s = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = now_s
        metrics.count_tokens(len(message.token_ids), now_s - self.last_s, first=not self.token_ids)
        self.last_s = now_s
        self.token_ids.extend(message.token_ids)
        self.logprobs.extend(message.logprobs)

    def resumption(self) -> Submit:
        """Return what an engine is asked for: all, or what is missing of it."""
        timeout_s = self.submit.timeout_s
        if timeout_s is not None:
            timeout_s = max(self.submitted_s + timeout_s - time.monotonic(), _LEAST_S)
        return replace(self.submit, output_ids=tuple(self.token_ids), timeout_s=timeout_s)

    def end(self, finished: Finished) -> None:
        """Take the end in; where several engines had a part in it, times are from the first on."""
        if self.num_sent > 1:
            now_s = time.monotonic()
            stats = replace(
                finished.stats,
                replays=self.num_sent - 1,
                ttft_s=(self.first_token_s or now_s) - self.submitted_s,
                total_s=now_s - self.submitted_s,
            )
            finished = replace(finished, stats=stats)
        self.finished = finished
        self.ended_s = time.monotonic()

    def fail(self, error: PacelineError) -> None:
        """Take a bad end in."""
        self.error = error
        self.ended_s = time.monotonic()

    def piece(self, sample: int, start: int) -> Piece | None:
        """Return some tokens from number `start` on, if there are any."""
        if len(self.token_ids) <= start:
            return None
        end = start + _PIECE_TOKENS
        return Piece(
            sample=sample,
            token_ids=tuple(self.token_ids[start:end]),
            logprobs=tuple(self.logprobs[start:end]),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class OpenRequest:
    """One request's samples, and who reads them."""

    client: str
    name: str
    samples: list[Journal]
    num_readers: int = 0
    is_dropped: bool = False
    """Whether it is forgotten as soon as it has ended: no reader will come back."""
    idle_since_s: float = field(default_factory=time.monotonic)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        """Whether more tokens may come."""
        return any(journal.is_open for journal in self.samples)

    @property
    def end_reason(self) -> EndReason:
        """The gravest end of its samples; all must have ended."""
        return max(journal.end_reason for journal in self.samples)

    @property
    def seed(self) -> int:
        """The seed that its samples share."""
        return self.samples[0].submit.sampling.seed

    async def follow(self) -> AsyncGenerator[Piece]:
        """Yield all samples' tokens from the first one on, until every sample has ended.

        A slow reader holds nothing up: tokens lie in the journals, which max_tokens bounds.

        Raises:
            PacelineError: the request or the engine failed.
        """
        places = [0] * len(self.samples)
        ended = [False] * len(places)
        while not all(ended):
            changed, quiet = self.changed, True
            for index, journal in enumerate(self.samples):
                piece = journal.piece(index, places[index])
                if piece is not None:
                    places[index] += len(piece.token_ids)
                elif journal.error is not None:
                    raise journal.error
                elif journal.finished is not None and not ended[index]:
                    ended[index] = True
                    piece = Piece(sample=index, finished=journal.finished)
                if piece is not None:
                    quiet = False
                    yield piece
            if quiet and not all(ended):
                await changed.wait()
            else:
                await asyncio.sleep(0)  # a reader of much that is there lets others run

    def report(self) -> dict[str, object]:
        """Return what the log says of it once it has ended: no word of prompt or answer."""
        samples = self.samples
        submitted_s = min(journal.submitted_s for journal in samples)
        firsts = [j.first_token_s for j in samples if j.first_token_s is not None]
        ends = [j.ended_s for j in samples if j.ended_s is not None]
        stats = [j.finished.stats for j in samples if j.finished is not None]
        errors = [j.error for j in samples if j.error is not None]
        return {
            "request_id": self.name,
            "client": self.client,
            "prompt_tokens": len(samples[0].submit.prompt_ids),
            "completion_tokens": sum(len(journal.token_ids) for journal in samples),
            "reason": self.end_reason.name.lower(),
            "cause": str(errors[0]) if errors else None,
            "ttft_s": round(min(firsts) - submitted_s, 4) if firsts else None,
            "total_s": round(max(ends) - submitted_s, 4) if ends else None,
            "drafted": sum(one.drafted for one in stats),
            "accepted": sum(one.accepted for one in stats),
        }

    def touch(self) -> None:
        """Wake whoever waits for news."""
        self.changed.set()
        self.changed = asyncio.Event()
