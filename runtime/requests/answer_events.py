"""Turn the journals of a request into the events of its answer, for any wire."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from parallel.decoding.token_source import TokenSource
from parallel.decoding.types import TokenLogprobs
from parallel.messages import RequestStats
from runtime.gateway.journal import OpenRequest
from runtime.models.tokenizer import Tokenizer
from runtime.requests.text_stream import TextStream


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensEvent:
    """New tokens of a sample, and the text that no later token can change."""

    sample: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...]
    """One for each token if the request sets `logprobs`, else empty."""
    sources: tuple[TokenSource, ...]
    """How each token came about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEnd:
    """The end of a sample."""

    sample: int
    reason: str
    """"stop", "length" or "cancelled"."""
    text: str
    """The last text, held back because a stop string could have begun in it."""
    num_tokens: int
    """Length of the sample."""
    stats: RequestStats
    complete: bool | None = None
    """Whether the sample satisfies the request's constraint; None without one."""


async def answer_events(
    request: OpenRequest, tokenizer: Tokenizer, offsets: Sequence[int]
) -> AsyncGenerator[TokensEvent | SampleEnd]:
    """Yield a request's tokens as they are committed, and the end of each sample.

    Args:
        request: an accepted request.
        tokenizer: decodes its tokens.
        offsets: the number of tokens of each sample that the client already has.

    Raises:
        PacelineError: the request or the engine failed.
    """
    stops = request.samples[0].submit.stop
    texts = [TextStream(tokenizer, stops) for _ in request.samples]
    skips = list(offsets)
    async with aclosing(request.follow()) as pieces:
        async for piece in pieces:
            text = texts[piece.sample]
            if piece.finished is not None:
                yield SampleEnd(
                    sample=piece.sample,
                    reason=piece.finished.reason,
                    text=text.finish(),
                    num_tokens=len(request.samples[piece.sample].token_ids),
                    stats=piece.finished.stats,
                    complete=piece.finished.complete,
                )
                continue
            skip = min(skips[piece.sample], len(piece.token_ids))
            skips[piece.sample] -= skip
            text.push(piece.token_ids[:skip])
            new_ids = piece.token_ids[skip:]
            if new_ids:
                yield TokensEvent(
                    sample=piece.sample,
                    token_ids=new_ids,
                    text=text.push(new_ids),
                    logprobs=piece.logprobs[skip:],
                    sources=piece.sources[skip:],
                )
