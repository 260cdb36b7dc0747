"""The gateway's record of a request: its client, and the tokens of each of its samples."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

from parallel.decoding.token_source import TokenSource
from parallel.decoding.types import TokenLogprobs
from parallel.messages import Committed, Finished, Submit
from runtime.errors import DeadlineExceeded, PacelineError
from runtime.gateway.metrics import EndReason, ServiceMetrics

_MIN_S = 1e-3  # a deadline is never 0
_PIECE_TOKENS = 256
"""Most tokens of a piece: with log probabilities, some 50 kB."""
_SUSPECT_LOSSES = 2
_MAX_LOSSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of one sample: tokens, or its end."""

    sample: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    sources: tuple[TokenSource, ...] = ()
    finished: Finished | None = None


@dataclass(slots=True, kw_only=True)
class Journal:
    """One sample's tokens, its place and its end."""

    submit: Submit
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    sources: list[TokenSource] = field(default_factory=list)
    """How each token came about."""
    finished: Finished | None = None
    error: PacelineError | None = None
    last_s: float = field(default_factory=time.monotonic)
    """When it was submitted, or its latest tokens arrived."""
    replica: int | None = None
    """The engine it runs on; None while it waits for one."""
    is_cancelled: bool = False
    """Whether it is cancelled and has to end."""
    is_late: bool = False
    """Whether it is cancelled because its client's deadline passed."""
    num_sent: int = 0
    """Times that it was sent to an engine."""
    num_stalled: int = 0
    """Engines lost in a row while it ran there and had no new token."""
    submitted_s: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    ended_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether more tokens may come."""
        return self.finished is None and self.error is None

    @property
    def end_reason(self) -> EndReason:
        """How it ended; it must have ended."""
        if self.finished is not None:
            return EndReason[self.finished.reason.upper()]
        assert self.error is not None, "the sample is open"
        late = isinstance(self.error, DeadlineExceeded)
        return EndReason.DEADLINE if late else EndReason.ERROR

    @property
    def is_suspect(self) -> bool:
        """Whether it may be the cause of engine losses: only one suspect runs at a time."""
        return self.num_stalled >= _SUSPECT_LOSSES

    @property
    def is_given_up(self) -> bool:
        """Whether an engine was lost again while it was the only suspect."""
        return self.num_stalled >= _MAX_LOSSES

    def append(self, message: Committed, metrics: ServiceMetrics) -> None:
        """Append committed tokens."""
        self.num_stalled = 0
        now_s = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = now_s
        metrics.count_tokens(len(message.token_ids), now_s - self.last_s, first=not self.token_ids)
        self.last_s = now_s
        self.token_ids.extend(message.token_ids)
        self.logprobs.extend(message.logprobs)
        self.sources.extend(message.sources)

    def resumption(self) -> Submit:
        """Return the request for an engine, which continues after the tokens so far."""
        timeout_s = self.submit.timeout_s
        if timeout_s is not None:
            timeout_s = max(self.submitted_s + timeout_s - time.monotonic(), _MIN_S)
        return replace(self.submit, output_ids=tuple(self.token_ids), timeout_s=timeout_s)

    def end(self, finished: Finished) -> None:
        """Record the end; if it ran on several engines, its times count from the first on."""
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
        """Record a failure."""
        self.error = error
        self.ended_s = time.monotonic()

    def piece(self, sample: int, start: int) -> Piece | None:
        """Return the next tokens from index `start` on, or None without any."""
        if len(self.token_ids) <= start:
            return None
        end = start + _PIECE_TOKENS
        return Piece(
            sample=sample,
            token_ids=tuple(self.token_ids[start:end]),
            logprobs=tuple(self.logprobs[start:end]),
            sources=tuple(self.sources[start:end]),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class OpenRequest:
    """One request's samples and the number of its readers."""

    client: str
    name: str
    samples: list[Journal]
    num_readers: int = 0
    is_dropped: bool = False
    """Whether it is dropped as soon as it has ended: no reader will return."""
    idle_since_s: float = field(default_factory=time.monotonic)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        """Whether more tokens may come."""
        return any(journal.is_open for journal in self.samples)

    @property
    def end_reason(self) -> EndReason:
        """The most severe end of its samples; all must have ended."""
        return max(journal.end_reason for journal in self.samples)

    @property
    def seed(self) -> int:
        """The seed of its samples."""
        return self.samples[0].submit.sampling.seed

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of its prompts, each counted once for all its samples."""
        submits = [journal.submit for journal in self.samples]
        return sum(len(submit.prompt_ids) for submit in submits if not submit.sample_index)

    async def follow(self) -> AsyncGenerator[Piece]:
        """Yield all samples' tokens from the first one on, until every sample has ended.

        A slow reader delays nothing: tokens stay in the journals, which max_tokens bounds.

        Raises:
            PacelineError: the request or the engine failed.
        """
        offsets = [0] * len(self.samples)
        ended = [False] * len(offsets)
        while not all(ended):
            changed, is_idle = self.changed, True
            for index, journal in enumerate(self.samples):
                piece = journal.piece(index, offsets[index])
                if piece is not None:
                    offsets[index] += len(piece.token_ids)
                elif journal.error is not None:
                    raise journal.error
                elif journal.finished is not None and not ended[index]:
                    ended[index] = True
                    piece = Piece(sample=index, finished=journal.finished)
                if piece is not None:
                    is_idle = False
                    yield piece
            if is_idle and not all(ended):
                await changed.wait()
            else:
                await asyncio.sleep(0)  # between two pieces other tasks run

    def report(self) -> dict[str, object]:
        """Return the fields of its log record once it has ended, without prompt and answer."""
        samples = self.samples
        submitted_s = min(journal.submitted_s for journal in samples)
        firsts = [j.first_token_s for j in samples if j.first_token_s is not None]
        ends = [j.ended_s for j in samples if j.ended_s is not None]
        stats = [j.finished.stats for j in samples if j.finished is not None]
        errors = [j.error for j in samples if j.error is not None]
        return {
            "request_id": self.name,
            "client": self.client,
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": sum(len(journal.token_ids) for journal in samples),
            "reason": self.end_reason.name.lower(),
            "cause": str(errors[0]) if errors else None,
            "ttft_s": round(min(firsts) - submitted_s, 4) if firsts else None,
            "total_s": round(max(ends) - submitted_s, 4) if ends else None,
            "drafted": sum(one.drafted for one in stats),
            "accepted": sum(one.accepted for one in stats),
        }

    def notify_readers(self) -> None:
        """Wake the readers that wait for tokens."""
        self.changed.set()
        self.changed = asyncio.Event()
