"""The Python clients: `Client`, and `AsyncClient` beside it.

    with Client("127.0.0.1:50051") as client:
        for chunk in client.generate("Why is the sky blue?"):
            print(chunk.text, end="")

A stream that breaks is resumed: the server keeps each request's tokens for a while. The client
waits for a server that is away.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.channels.channel import open_channel
from runtime.channels.credentials import Credentials
from runtime.checking.prompt_value import token_ids as checked_ids
from runtime.checking.values import text as checked_text
from runtime.checking.values import whole_number
from runtime.client.async_client import AsyncClient
from runtime.client.call_options import SamplingFields
from runtime.client.client_patience import PATIENCE_S, ClientPatience
from runtime.client.client_protocol import (
    CALL_S,
    CANCEL_S,
    CHANNEL_OPTIONS,
    CallProgress,
    Chunk,
    Prompt,
    ServiceError,
    progress_of,
)
from runtime.client.owner import ClientUnusable, Owner
from runtime.client.sampling_fields import Sampling, checked_name
from runtime.errors import PacelineError

__all__ = [
    "AsyncClient",
    "Chunk",
    "Client",
    "ClientUnusable",
    "Credentials",
    "Prompt",
    "ServiceError",
]

_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")


class Client:
    """A connection to a server; threads may share it, forked processes may not.

    All methods raise ClientUnusable in a process that was forked from the client's, or after
    `close`.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        credentials: Credentials | None = None,
        patience_s: float = PATIENCE_S,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare a connection; it is made at the first call.

        Args:
            address: HOST:PORT.
            token: bearer token, where the server wants one.
            credentials: a token and TLS files in one; None is plaintext.
            patience_s: how long to wait for a server that is away, as while it restarts, or has no
                room; each token restores the budget. 0 waits for nothing.
            on_wait: told in a sentence when a wait begins; None writes it to the log.

        Raises:
            ConfigError: the address or a credential cannot be used, or the token would leave this
                machine in plaintext.
        """
        self._address = address
        self._credentials = credentials or Credentials(token=token)
        self._channel = open_channel(address, self._credentials, CHANNEL_OPTIONS)
        self._generation = rpc.GenerationServiceStub(self._channel)
        self._model = rpc.ModelServiceStub(self._channel)
        self._admin = rpc.AdminServiceStub(self._channel)
        self._patience_s, self._on_wait = patience_s, on_wait
        self._running: set[str] = set()
        self._owner = Owner()
        self._closing = threading.Event()

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
        """Close the connection; requests that run are cancelled. It may be repeated."""
        if not self._owner.is_here:  # gRPC would wait for threads that the fork did not copy
            return
        self._closing.set()
        self._owner.close()
        running = list(self._running)
        self._running.clear()
        self._cancel_quietly(*running)
        self._channel.close()

    def generate(
        self,
        prompt: Prompt,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        patience_s: float | None = None,
        **sampling: Unpack[SamplingFields],
    ) -> Iterator[Chunk]:
        """Yield an answer as it is committed; leaving the loop cancels it.

        Args:
            prompt: text, a conversation of {"role", "content"}, or token ids: a list, an array, a
                tensor, or what a tokenizer returns for one text.
            request_id: names the request for `cancel`; None makes one up.
            timeout_s: of the whole answer.
            patience_s: in place of the client's.
            sampling: the fields of `Sampling`: max_tokens, temperature, seed, stop, n, ...

        Raises:
            ServiceError: the server refused, or was unreachable for longer than the patience.
            InvalidValue: the prompt or a value cannot be used; names the field and the position.
        """
        self._owner.check()
        progress = progress_of(
            prompt,
            Sampling(**sampling),
            request_id=request_id,
            timeout_s=timeout_s,
            patience=self._patience(patience_s),
        )
        return self._stream(progress)

    def cancel(self, request_id: str) -> bool:
        """End a request; True if it was running still.

        Raises:
            ServiceError: the server was not to be reached.
        """
        try:
            answer = self._call(
                self._generation.Cancel, pb.CancelRequest(request_id=checked_name(request_id))
            )
        except ServiceError as error:
            if error.code == grpc.StatusCode.NOT_FOUND.name:
                return False
            raise
        return answer.was_running

    def model(self) -> pb.GetModelResponse:
        """Return what the server serves; waits as `generate` does, and raises as `cancel` does."""
        return self._patiently(self._model.GetModel, pb.GetModelRequest())

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return a text's tokens; waits and raises as `model` does."""
        asked = pb.TokenizeRequest(text=checked_text(text, "text"))
        return tuple(self._patiently(self._model.Tokenize, asked).ids)

    def detokenize(self, token_ids: Iterable[object]) -> str:
        """Return the text of tokens; waits and raises as `model` does."""
        asked = pb.DetokenizeRequest(ids=checked_ids(token_ids, "token_ids", may_be_empty=True))
        return self._patiently(self._model.Detokenize, asked).text

    def status(self) -> pb.GetStatusResponse:
        """Return what the server does; raises as `cancel` does."""
        return self._call(self._admin.GetStatus, pb.GetStatusRequest())

    def drain(self) -> int:
        """Let the server finish what runs, refuse the rest and end; return how much runs."""
        return self._call(self._admin.Drain, pb.DrainRequest()).open_requests

    def set_drafters(self, num_drafters: int, *, timeout_s: float = 300.0) -> int:
        """Let so many drafters draft side by side; raises as `set_drafter` does."""
        request = pb.SetDraftersRequest(
            drafters=whole_number(num_drafters, "num_drafters", least=0, most=2**31 - 1)
        )
        return self._call(self._admin.SetDrafters, request, timeout_s).drafters

    def set_drafter(self, drafter: str | None, *, timeout_s: float = 300.0) -> str:
        """Start a drafter in place of the present one, or end it (None); return what drafts now.

        Raises:
            ServiceError: the drafter cannot be used, or the server was not to be reached.
        """
        if drafter is None:
            self._call(self._admin.RemoveDrafter, pb.RemoveDrafterRequest(), timeout_s)
            return ""
        swap = pb.SwapDrafterRequest(drafter=checked_text(drafter, "drafter"))
        return self._call(self._admin.SwapDrafter, swap, timeout_s).drafter

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Asked, _Told]",
        request: _Asked,
        timeout_s: float = CALL_S,
    ) -> _Told:
        self._owner.check()
        try:
            return method(request, metadata=self._credentials.metadata(), timeout=timeout_s)
        except grpc.RpcError as error:
            raise ServiceError(self._address, error) from error

    def _patiently(
        self, method: "grpc.UnaryUnaryMultiCallable[_Asked, _Told]", request: _Asked
    ) -> _Told:
        """Call what may be repeated, and wait for a server that is away."""
        patience = self._patience()
        metadata = self._credentials.metadata()
        while True:
            self._owner.check()
            try:
                return method(request, metadata=metadata, timeout=CALL_S)
            except grpc.RpcError as error:
                self._wait(patience.wait_s, error)

    def _patience(self, budget_s: float | None = None) -> ClientPatience:
        budget_s = self._patience_s if budget_s is None else budget_s
        return ClientPatience(self._address, budget_s, self._on_wait)

    def _wait(self, wait_s: Callable[[grpc.RpcError], float], error: grpc.RpcError) -> None:
        """Wait before the next attempt, unless the client is closed meanwhile."""
        self._owner.check()
        try:
            self._closing.wait(wait_s(error))
        except grpc.RpcError:
            raise ServiceError(self._address, error) from error

    def _stream(self, progress: CallProgress) -> Iterator[Chunk]:
        request_id = progress.request.request_id
        self._running.add(request_id)
        try:
            while not progress.finished:
                self._owner.check()
                try:
                    yield from self._attempt(progress)
                except grpc.RpcError as error:
                    self._wait(progress.wait_before_retry, error)
        except PacelineError:
            raise  # the server has ended the request, or is not there to hear of it
        except BaseException:  # the caller leaves: by closing the generator, or by a signal
            if request_id in self._running:  # else the client is closed
                self._cancel_quietly(request_id)
            raise
        finally:
            self._running.discard(request_id)

    def _cancel_quietly(self, *request_ids: str) -> None:
        """Tell the server, if it is there, that requests are of no use any more."""
        if not self._owner.is_here:
            return
        metadata = self._credentials.metadata()
        calls = [
            self._generation.Cancel.future(
                pb.CancelRequest(request_id=request_id), metadata=metadata, timeout=CANCEL_S
            )
            for request_id in request_ids
        ]
        for call in calls:
            with contextlib.suppress(grpc.RpcError):  # a server that is gone decodes nothing
                call.result()

    def _attempt(self, progress: CallProgress) -> Iterator[Chunk]:
        stream: Any = self._generation.Generate(
            progress.next_request(),
            metadata=self._credentials.metadata(),
            timeout=progress.timeout_s(),
        )
        try:
            while not progress.finished:
                self._owner.check()  # a stream that was begun before a fork would never go on
                event = next(stream, None)
                if event is None:
                    return
                chunk = progress.take(event)
                if chunk is not None:
                    yield chunk
        finally:
            if self._owner.is_here:
                stream.cancel()
