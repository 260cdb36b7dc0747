"""The Python client.

    with Client("127.0.0.1:50051") as client:
        for chunk in client.generate("Why is the sky blue?"):
            print(chunk.text, end="")

A stream that breaks is taken up where it was: the server keeps each request's tokens for a while.
"""

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc

from parallel.decoding.types import DecodeMode
from protos.paceline.v1 import link_pb2
from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.errors import PacelineError
from runtime.links.wire_values import MODES, REASON_NAMES

Prompt = str | Sequence[int] | Sequence[dict[str, str]]
"""Text, token ids, or a conversation of {"role", "content"}."""

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")
_CALL_S = 10.0
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 5.0
_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),  # a stream that broke is taken up soon
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class ServiceError(PacelineError):
    """The server refused, failed, or was not to be reached."""

    def __init__(self, server: str, error: grpc.RpcError) -> None:
        """Take a failed call's status."""
        self.code: str = error.code().name
        """Name of the gRPC status, as INVALID_ARGUMENT."""
        super().__init__(f"{server}: {self.code} ({error.details()})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of an answer; the last one has a finish reason."""

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    """"stop", "length" or "cancelled"."""
    prompt_tokens: int = 0
    """Told with the finish reason."""
    completion_tokens: int = 0
    stats: link_pb2.RequestStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How a client proves itself, and whom it trusts."""

    token: str | None = None
    root_ca: Path | None = None
    """Authority of the server's certificate; None speaks plaintext."""
    certificate: Path | None = None
    private_key: Path | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what each call carries."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return the TLS credentials, or None for plaintext."""
        if self.root_ca is None:
            return None
        pair = (self.private_key, self.certificate)
        key, chain = (path.read_bytes() if path is not None else None for path in pair)
        return grpc.ssl_channel_credentials(self.root_ca.read_bytes(), key, chain)


@dataclass(slots=True)
class _Progress:
    """One generation over all its attempts."""

    request: pb.GenerateRequest
    deadline_s: float | None
    max_attempts: int
    attempts: int = 0
    num_tokens: int = 0
    finished: bool = False
    _random: random.Random = field(default_factory=random.Random)

    def next_request(self) -> pb.GenerateRequest:
        self.request.resume_from = self.num_tokens
        return self.request

    def take(self, event: pb.GenerateResponse) -> Chunk | None:
        match event.WhichOneof("event"):
            case "accepted":
                self.request.seed = event.accepted.seed  # a retry asks for the very same
            case "tokens":
                self.attempts = 0
                self.num_tokens += len(event.tokens.token_ids)
                return Chunk(text=event.tokens.text, token_ids=tuple(event.tokens.token_ids))
            case "finish":
                self.finished = True
                finish = event.finish
                return Chunk(
                    text=finish.text,
                    finish_reason=REASON_NAMES[finish.reason],
                    prompt_tokens=finish.prompt_tokens,
                    completion_tokens=finish.completion_tokens,
                    stats=finish.stats,
                )
        return None

    def timeout_s(self) -> float | None:
        return None if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())

    def wait_before_retry(self, error: grpc.RpcError) -> float:
        """Return how long to wait before the next attempt; raises the error if there is none."""
        self.attempts += 1
        if error.code() not in _RETRIED or self.attempts >= self.max_attempts:
            raise error
        wait_s: float = min(_FIRST_WAIT_S * 2 ** (self.attempts - 1), _LONGEST_WAIT_S)
        wait_s = wait_s * (0.5 + self._random.random())
        left_s = self.timeout_s()
        if left_s is not None and wait_s >= left_s:
            raise error
        return wait_s


class Client:
    """A connection to a server; threads may share it."""

    def __init__(self, address: str, *, credentials: Credentials | None = None) -> None:
        """Prepare a connection; it is made at the first call.

        Args:
            address: HOST:PORT.
            credentials: None is plaintext without a token.
        """
        self._address = address
        self._credentials = credentials or Credentials()
        tls = self._credentials.channel_credentials()
        self._channel = (
            grpc.insecure_channel(address, options=_OPTIONS)
            if tls is None
            else grpc.secure_channel(address, tls, options=_OPTIONS)
        )
        self._generation = rpc.GenerationServiceStub(self._channel)
        self._model = rpc.ModelServiceStub(self._channel)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; streams that run end."""
        self._channel.close()

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        mode: str | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
        max_attempts: int = 8,
    ) -> Iterator[Chunk]:
        """Yield an answer as it is committed; leaving the loop cancels it.

        Args:
            prompt: text, token ids or a conversation.
            max_tokens: longest answer; None is the server's default.
            temperature: 0 or None is greedy.
            top_k: keep the k best tokens.
            top_p: keep the best tokens of this mass.
            min_p: drop tokens below this share of the best.
            repetition_penalty: 1 or None is off.
            seed: same seed, same tokens; None lets the server draw one.
            stop: strings that end the answer.
            ignore_eos: go on after the end token.
            mode: autoregressive, speculative or pearl; None is the server's default.
            request_id: names the request for `cancel`; None makes one up.
            timeout_s: of the whole answer.
            max_attempts: attempts in a row without a token before giving up.

        Raises:
            ServiceError: the server refused, or was not to be reached.
        """
        request = make_request(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            ignore_eos=ignore_eos,
            mode=mode,
            request_id=request_id,
        )
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        progress = _Progress(request, deadline_s, max_attempts)
        try:
            while not progress.finished:
                try:
                    yield from self._attempt(progress)
                except grpc.RpcError as error:
                    time.sleep(progress.wait_before_retry(error))
        except GeneratorExit:
            self.cancel(request.request_id)
            raise
        except grpc.RpcError as error:
            raise ServiceError(self._address, error) from error

    def cancel(self, request_id: str) -> bool:
        """End a request; True if it was running still.

        Raises:
            ServiceError: the server was not to be reached.
        """
        try:
            answer = self._call(self._generation.Cancel, pb.CancelRequest(request_id=request_id))
        except ServiceError as error:
            if error.code == grpc.StatusCode.NOT_FOUND.name:
                return False
            raise
        return answer.was_running

    def model(self) -> pb.GetModelResponse:
        """Return what the server serves; raises as `cancel` does."""
        return self._call(self._model.GetModel, pb.GetModelRequest())

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return a text's tokens; raises as `cancel` does."""
        return tuple(self._call(self._model.Tokenize, pb.TokenizeRequest(text=text)).ids)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens; raises as `cancel` does."""
        return self._call(self._model.Detokenize, pb.DetokenizeRequest(ids=token_ids)).text

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[_Asked, _Told]", request: _Asked
    ) -> _Told:
        try:
            return method(request, metadata=self._credentials.metadata(), timeout=_CALL_S)
        except grpc.RpcError as error:
            raise ServiceError(self._address, error) from error

    def _attempt(self, progress: _Progress) -> Iterator[Chunk]:
        stream = self._generation.Generate(
            progress.next_request(),
            metadata=self._credentials.metadata(),
            timeout=progress.timeout_s(),
        )
        try:
            for event in stream:
                chunk = progress.take(event)
                if chunk is not None:
                    yield chunk
        finally:
            stream.cancel()  # type: ignore[no-untyped-call]  # grpc-stubs


def make_request(
    prompt: Prompt,
    *,
    max_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
    stop: Sequence[str],
    ignore_eos: bool,
    mode: str | None,
    request_id: str | None,
) -> pb.GenerateRequest:
    """Return the wire form of a request; for the arguments see `Client.generate`.

    Raises:
        ValueError: the mode is not known.
    """
    if mode is not None and mode not in list(MODES):
        raise ValueError(f"mode is {mode!r}: choose one of {', '.join(MODES)}")
    request = pb.GenerateRequest(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos,
        mode=link_pb2.DECODE_MODE_UNSPECIFIED if mode is None else MODES[DecodeMode(mode)],
        request_id=request_id or uuid.uuid4().hex,
    )
    if isinstance(prompt, str):
        request.text = prompt
        return request
    turns = [turn for turn in prompt if isinstance(turn, dict)]
    if turns:
        request.chat.CopyFrom(
            pb.Chat(messages=[pb.ChatMessage(role=t["role"], content=t["content"]) for t in turns])
        )
    else:
        ids = [token for token in prompt if isinstance(token, int)]
        request.token_ids.CopyFrom(pb.TokenIds(ids=ids))
    return request
