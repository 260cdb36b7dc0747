"""What both Python clients share: requests, chunks, and how a broken stream resumes."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from parallel.decoding.types import DecodeMode, TokenLogprobs
from parallel.messages import RequestStats
from protos.paceline.v1 import link_pb2
from protos.paceline.v1 import service_pb2 as pb
from runtime.channels.handshakes import explained
from runtime.checking.prompt_value import prompt as checked_prompt
from runtime.checking.sampling_fields import Sampling, checked_name
from runtime.checking.values import number
from runtime.client.client_patience import ClientPatience
from runtime.errors import PacelineError, ProtocolError
from runtime.links.from_wire import get_logprobs, get_stats
from runtime.links.to_wire import put_constraint
from runtime.links.wire_values import MODES, REASON_NAMES, known

Prompt = str | Iterable[object]
"""Text, token ids (a list, an array, a tensor, a tokenizer's result), or a conversation of
{"role", "content"}."""

CALL_S = 10.0
_LONGEST_S = 365 * 86400
"""gRPC treats a deadline centuries ahead as one that has passed."""
CANCEL_S = 3.0
"""How long a client that closes waits until the server has cancelled its requests."""


class ServiceError(PacelineError):
    """The server rejected a call, failed, or was unreachable."""

    def __init__(self, server: str, error: grpc.RpcError) -> None:
        """Store the status of a failed call."""
        self.code: str = error.code().name
        """Name of the gRPC status, such as INVALID_ARGUMENT."""
        super().__init__(f"{server}: {self.code} ({explained(error.details())})")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the status and the text; gRPC's own error cannot be pickled."""
        return _restored, (self.code, str(self))


def _restored(code: str, text: str) -> ServiceError:
    error = ServiceError.__new__(ServiceError, text)
    error.code = code
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of an answer; the last chunk of each sample has a finish reason."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token if the request sets `logprobs`, else empty."""
    sample: int = 0
    """Index of the sample, below n."""
    finish_reason: str | None = None
    """"stop", "length" or "cancelled"; None before the end."""
    prompt_tokens: int = 0
    """Length of the prompt; 0 before the end, as are the following fields."""
    completion_tokens: int = 0
    """Length of this sample."""
    stats: RequestStats | None = None
    """What the sample cost and what speculation saved; None before the end."""
    complete: bool | None = None
    """Whether the sample satisfies the request's constraint; None before the end, or without
    one."""


def wire_request(prompt: Prompt, sampling: Sampling, request_id: str | None) -> pb.GenerateRequest:
    """Return the wire form of a request.

    Raises:
        InvalidValue: the prompt or a value cannot be used; names the field and the position.
    """
    checked = sampling.checked()
    name = checked_name("" if request_id is None else request_id)
    request = pb.GenerateRequest(
        max_tokens=checked.max_tokens,
        temperature=checked.temperature,
        top_k=checked.top_k,
        top_p=checked.top_p,
        min_p=checked.min_p,
        repetition_penalty=checked.repetition_penalty,
        presence_penalty=checked.presence_penalty,
        frequency_penalty=checked.frequency_penalty,
        logit_bias=[
            link_pb2.TokenBias(token_id=token, bias=bias)
            for token, bias in (checked.logit_bias or {}).items()
        ],
        seed=checked.seed,
        stop=checked.stop,
        stop_token_ids=checked.stop_token_ids,
        min_tokens=checked.min_tokens,
        ignore_eos=checked.ignore_eos,
        mode=(
            link_pb2.DECODE_MODE_UNSPECIFIED
            if checked.mode is None
            else MODES[DecodeMode(checked.mode)]
        ),
        n=checked.n,
        logprobs=checked.logprobs,
        priority=checked.priority,
        model=checked.model or "",
        constraint=put_constraint(checked.constraint),
        request_id=name or uuid.uuid4().hex,
    )
    content = checked_prompt(prompt)
    if isinstance(content, str):
        request.text = content
    elif isinstance(content[0], int):
        request.token_ids.ids.extend(content)
    else:
        request.chat.messages.extend(pb.ChatMessage(**turn) for turn in content)
    return request


@dataclass(slots=True)
class CallProgress:
    """The state of one generation over all its attempts."""

    request: pb.GenerateRequest
    deadline_s: float | None
    patience: ClientPatience
    finished: bool = False
    num_tokens: list[int] = field(init=False)
    _prompt_tokens: int = 0

    def __post_init__(self) -> None:
        """Begin without tokens."""
        self.num_tokens = [0] * (self.request.n or 1)

    @property
    def has_samples(self) -> bool:
        """Whether the request has more than one sample."""
        return len(self.num_tokens) > 1

    def next_request(self) -> pb.GenerateRequest:
        """Return the request that continues where the last attempt broke."""
        if self.has_samples:
            del self.request.resume_from_each[:]
            self.request.resume_from_each.extend(self.num_tokens)
        else:
            self.request.resume_from = self.num_tokens[0]
        return self.request

    def take(self, event: pb.GenerateResponse) -> Chunk | None:
        """Return the chunk that an event makes, or None.

        Raises:
            ProtocolError: the event is malformed.
        """
        try:
            return self._chunk(event)
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"the server sent a malformed event: {error}") from error

    def _chunk(self, event: pb.GenerateResponse) -> Chunk | None:
        match event.WhichOneof("event"):
            case "accepted":
                self.request.seed = event.accepted.seed  # a retry repeats the same request
                self._prompt_tokens = event.accepted.prompt_tokens
            case "tokens":
                tokens = event.tokens
                self.patience.answered()
                self.num_tokens[tokens.sample] += len(tokens.token_ids)
                return Chunk(
                    text=tokens.text,
                    token_ids=tuple(tokens.token_ids),
                    logprobs=tuple(get_logprobs(one) for one in tokens.logprobs),
                    sample=tokens.sample,
                )
            case "sample_finish":
                return self._ended(event.sample_finish, event.sample_finish.sample)
            case "finish":
                self.finished = True
                return None if self.has_samples else self._ended(event.finish, 0)
        return None

    def timeout_s(self) -> float | None:
        """Return the time left."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())

    def wait_before_retry(self, error: grpc.RpcError) -> float:
        """Return how long to wait before the next attempt; raises the error if there is none."""
        return self.patience.wait_s(error, self.timeout_s())

    def _ended(self, end: pb.SampleFinish | pb.Finish, sample: int) -> Chunk:
        return Chunk(
            text=end.text,
            sample=sample,
            finish_reason=known(REASON_NAMES, end.reason, "finish reason"),
            prompt_tokens=self._prompt_tokens,
            completion_tokens=end.completion_tokens,
            stats=get_stats(end.stats),
            complete=end.complete if end.HasField("complete") else None,
        )


def progress_of(
    prompt: Prompt,
    sampling: Sampling,
    *,
    request_id: str | None,
    timeout_s: float | None,
    patience: ClientPatience,
) -> CallProgress:
    """Return a new generation; for the arguments see `Client.generate`.

    Raises:
        InvalidValue: the prompt or a value cannot be used; names the field and the position.
    """
    if timeout_s is not None:
        timeout_s = number(timeout_s, "`timeout_s`", minimum=0, maximum=_LONGEST_S)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    return CallProgress(wire_request(prompt, sampling, request_id), deadline_s, patience)
