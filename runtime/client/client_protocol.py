"""What both Python clients share: requests, chunks, and how a stream is taken up."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from parallel.decoding.types import DecodeMode, TokenLogprobs
from protos.paceline.v1 import link_pb2
from protos.paceline.v1 import service_pb2 as pb
from runtime.channels.handshakes import explained
from runtime.checking.prompt_value import prompt as checked_prompt
from runtime.checking.values import number
from runtime.client.client_patience import ClientPatience
from runtime.client.sampling_fields import Sampling, checked_name
from runtime.errors import PacelineError
from runtime.links.keepalive import pinging
from runtime.links.wire_values import MODES, REASON_NAMES

Prompt = str | Iterable[object]
"""Text, token ids (a list, an array, a tensor, a tokenizer's result), or a conversation of
{"role", "content"}."""

CALL_S = 10.0
_LONGEST_S = 365 * 86400
"""gRPC takes a deadline some centuries ahead for one that is over."""
CHANNEL_OPTIONS = (
    *pinging(),
    ("grpc.initial_reconnect_backoff_ms", 100),  # a stream that broke is taken up soon
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),  # a new client does not inherit the waits of others
)
CANCEL_S = 3.0
"""How long a client that leaves waits for the server to hear of it."""


class ServiceError(PacelineError):
    """The server refused, failed, or was not to be reached."""

    def __init__(self, server: str, error: grpc.RpcError) -> None:
        """Take a failed call's status."""
        self.code: str = error.code().name
        """Name of the gRPC status, as INVALID_ARGUMENT."""
        super().__init__(f"{server}: {self.code} ({explained(error.details())})")

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep what says it all on the way to another process; gRPC's own error stays behind."""
        return _restored, (self.code, str(self))


def _restored(code: str, text: str) -> ServiceError:
    error = ServiceError.__new__(ServiceError, text)
    error.code = code
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of an answer; each sample's last one has a finish reason."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, where they were asked for."""
    sample: int = 0
    """Which of n samples."""
    finish_reason: str | None = None
    """"stop", "length" or "cancelled"."""
    prompt_tokens: int = 0
    """Told with the finish reason, as are the next ones."""
    completion_tokens: int = 0
    """Of this sample."""
    stats: link_pb2.RequestStats | None = None


def wire_request(prompt: Prompt, sampling: Sampling, request_id: str | None) -> pb.GenerateRequest:
    """Return the wire form of a request.

    Raises:
        InvalidValue: the prompt or a value cannot be used; names the field and the position.
    """
    asked = sampling.checked()
    name = checked_name("" if request_id is None else request_id)
    request = pb.GenerateRequest(
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
        seed=asked.seed,
        stop=asked.stop,
        ignore_eos=asked.ignore_eos,
        mode=(
            link_pb2.DECODE_MODE_UNSPECIFIED
            if asked.mode is None
            else MODES[DecodeMode(asked.mode)]
        ),
        n=asked.n,
        logprobs=asked.logprobs,
        priority=asked.priority,
        request_id=name or uuid.uuid4().hex,
    )
    checked = checked_prompt(prompt)
    if isinstance(checked, str):
        request.text = checked
    elif isinstance(checked[0], int):
        request.token_ids.ids.extend(checked)
    else:
        request.chat.messages.extend(pb.ChatMessage(**turn) for turn in checked)
    return request


@dataclass(slots=True)
class CallProgress:
    """One generation over all its attempts."""

    request: pb.GenerateRequest
    deadline_s: float | None
    patience: ClientPatience
    finished: bool = False
    num_tokens: list[int] = field(init=False)
    _prompt_tokens: int = 0

    def __post_init__(self) -> None:
        """Start with no token of any sample."""
        self.num_tokens = [0] * (self.request.n or 1)

    @property
    def several(self) -> bool:
        """Whether the request has more than one sample."""
        return len(self.num_tokens) > 1

    def next_request(self) -> pb.GenerateRequest:
        """Return the request that goes on where the last attempt broke."""
        if self.several:
            del self.request.resume_from_each[:]
            self.request.resume_from_each.extend(self.num_tokens)
        else:
            self.request.resume_from = self.num_tokens[0]
        return self.request

    def take(self, event: pb.GenerateResponse) -> Chunk | None:
        """Return what an event says, if a user is to hear of it."""
        match event.WhichOneof("event"):
            case "accepted":
                self.request.seed = event.accepted.seed  # a retry asks for the very same
                self._prompt_tokens = event.accepted.prompt_tokens
            case "tokens":
                tokens = event.tokens
                self.patience.answered()
                self.num_tokens[tokens.sample] += len(tokens.token_ids)
                return Chunk(
                    text=tokens.text,
                    token_ids=tuple(tokens.token_ids),
                    logprobs=tuple(_logprobs(one) for one in tokens.logprobs),
                    sample=tokens.sample,
                )
            case "sample_finish":
                return self._ended(event.sample_finish, event.sample_finish.sample)
            case "finish":
                self.finished = True
                return None if self.several else self._ended(event.finish, 0)
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
            finish_reason=REASON_NAMES[end.reason],
            prompt_tokens=self._prompt_tokens,
            completion_tokens=end.completion_tokens,
            stats=end.stats,
        )


def _logprobs(wire: link_pb2.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(
        logprob=wire.logprob,
        top_ids=tuple(wire.top_ids),
        top_logprobs=tuple(wire.top_logprobs),
    )


def progress_of(
    prompt: Prompt,
    sampling: Sampling,
    *,
    request_id: str | None,
    timeout_s: float | None,
    patience: ClientPatience,
) -> CallProgress:
    """Begin a generation; for the arguments see `Client.generate`.

    Raises:
        InvalidValue: the prompt or a value cannot be used; names the field and the position.
    """
    if timeout_s is not None:
        timeout_s = number(timeout_s, "timeout_s", least=0, most=_LONGEST_S)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    return CallProgress(wire_request(prompt, sampling, request_id), deadline_s, patience)
