"""The Python clients: `Client`, and `AsyncClient` beside it.

    with Client("127.0.0.1:50051") as client:
        for chunk in client.generate("Why is the sky blue?"):
            print(chunk.text, end="")

A stream that breaks is taken up where it was: the server keeps each request's tokens for a while.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.channels.channel import open_channel
from runtime.channels.credentials import Credentials
from runtime.service.async_client import AsyncClient
from runtime.service.call_options import SamplingFields
from runtime.service.calls import (
    CALL_S,
    CHANNEL_OPTIONS,
    Chunk,
    Progress,
    Prompt,
    Sampling,
    ServiceError,
    progress_of,
)

__all__ = ["AsyncClient", "Chunk", "Client", "Credentials", "Prompt", "ServiceError"]

_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")


class Client:
    """A connection to a server; threads may share it."""

    def __init__(
        self, address: str, *, token: str | None = None, credentials: Credentials | None = None
    ) -> None:
        """Prepare a connection; it is made at the first call.

        Args:
            address: HOST:PORT.
            token: bearer token, where the server wants one.
            credentials: a token and TLS files in one; None is plaintext.

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
        self._running: set[str] = set()

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
        """Close the connection; requests that run are cancelled."""
        for request_id in list(self._running):
            self._cancel_quietly(request_id)
        self._channel.close()

    def generate(
        self,
        prompt: Prompt,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        max_attempts: int = 8,
        **sampling: Unpack[SamplingFields],
    ) -> Iterator[Chunk]:
        """Yield an answer as it is committed; leaving the loop cancels it.

        Args:
            prompt: text, token ids or a conversation.
            request_id: names the request for `cancel`; None makes one up.
            timeout_s: of the whole answer.
            max_attempts: attempts in a row without a token before giving up.
            sampling: the fields of `Sampling`: max_tokens, temperature, seed, stop, n, ...

        Raises:
            ServiceError: the server refused, or was not to be reached.
            ValueError: the mode is not known.
        """
        progress = progress_of(
            prompt,
            Sampling(**sampling),
            request_id=request_id,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
        )
        return self._stream(progress)

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

    def status(self) -> pb.GetStatusResponse:
        """Return what the server does; raises as `cancel` does."""
        return self._call(self._admin.GetStatus, pb.GetStatusRequest())

    def drain(self) -> int:
        """Let the server finish what runs, refuse the rest and end; return how much runs."""
        return self._call(self._admin.Drain, pb.DrainRequest()).open_requests

    def set_drafters(self, num_drafters: int, *, timeout_s: float = 300.0) -> int:
        """Let so many drafters draft side by side; raises as `set_drafter` does."""
        request = pb.SetDraftersRequest(drafters=num_drafters)
        return self._call(self._admin.SetDrafters, request, timeout_s).drafters

    def set_drafter(self, drafter: str | None, *, timeout_s: float = 300.0) -> str:
        """Start a drafter in place of the present one, or end it (None); return what drafts now.

        Raises:
            ServiceError: the drafter cannot be used, or the server was not to be reached.
        """
        if drafter is None:
            self._call(self._admin.RemoveDrafter, pb.RemoveDrafterRequest(), timeout_s)
            return ""
        swap = pb.SwapDrafterRequest(drafter=drafter)
        return self._call(self._admin.SwapDrafter, swap, timeout_s).drafter

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Asked, _Told]",
        request: _Asked,
        timeout_s: float = CALL_S,
    ) -> _Told:
        try:
            return method(request, metadata=self._credentials.metadata(), timeout=timeout_s)
        except grpc.RpcError as error:
            raise ServiceError(self._address, error) from error

    def _stream(self, progress: Progress) -> Iterator[Chunk]:
        request_id = progress.request.request_id
        self._running.add(request_id)
        try:
            while not progress.finished:
                try:
                    yield from self._attempt(progress)
                except grpc.RpcError as error:
                    time.sleep(progress.wait_before_retry(error))
        except GeneratorExit:
            if request_id in self._running:  # else the client is closed
                self._cancel_quietly(request_id)
            raise
        except grpc.RpcError as error:
            raise ServiceError(self._address, error) from error
        finally:
            self._running.discard(request_id)

    def _cancel_quietly(self, request_id: str) -> None:
        self._running.discard(request_id)
        with contextlib.suppress(ServiceError):  # a server that is gone decodes nothing
            self.cancel(request_id)

    def _attempt(self, progress: Progress) -> Iterator[Chunk]:
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
