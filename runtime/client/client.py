"""The blocking client, for threads."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.channels.channel import CLIENT_OPTIONS, open_channel
from runtime.checking.prompt_value import token_ids as checked_ids
from runtime.checking.sampling_fields import Sampling, SamplingFields, checked_name
from runtime.checking.values import text as checked_text
from runtime.checking.values import whole_number
from runtime.client.adapter_status import AdapterStatus, read_adapter_status
from runtime.client.client_protocol import (
    CALL_S,
    CANCEL_S,
    CallProgress,
    Chunk,
    Prompt,
    ServiceError,
    progress_of,
)
from runtime.client.connection import Connection, ConnectionFields
from runtime.client.owner import Owner
from runtime.client.server_status import ModelInfo, ServerStatus, read_model, read_status
from runtime.errors import PacelineError

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to a server; threads may share it, forked processes may not.

    All methods raise ClientUnusable in a process that was forked from the client's, or after
    `close`.
    """

    def __init__(
        self,
        address: str,
        **fields: Unpack[ConnectionFields],
    ) -> None:
        """Prepare a connection; it is made at the first call.

        Args:
            address: HOST:PORT.
            token: bearer token, for a server that requires one.
            credentials: a token and TLS files together; None is plaintext.
            patience_s: how long to wait for a server that is away (while it restarts) or full;
                each token restores the budget. 0 never waits.
            on_wait: called with a sentence when a wait begins; None writes it to the log.

        Raises:
            ConfigError: the address or a credential cannot be used, the token would leave this
                machine in plaintext, or there is one beside `credentials`.
        """
        self._connection = Connection.to(address, **fields)
        self._channel = open_channel(address, self._connection.credentials, CLIENT_OPTIONS)
        self._generation = rpc.GenerationServiceStub(self._channel)
        self._model = rpc.ModelServiceStub(self._channel)
        self._admin = rpc.AdminServiceStub(self._channel)
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
        """Cancel the running requests and close the connection; closing twice does no harm."""
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
        """Yield the answer in chunks as tokens are committed; leaving the loop cancels the request.

        Args:
            prompt: text, a conversation of {"role", "content"}, or token ids: a list, an array, a
                tensor, or what a tokenizer returns for one text.
            request_id: names the request for `cancel`; None generates a name.
            timeout_s: limit for the whole answer.
            patience_s: overrides the client's.
            sampling: the fields of `Sampling`: max_tokens, temperature, seed, stop, n, ...

        Raises:
            ServiceError: the server rejected the request, or was unreachable for longer than the
                patience.
            InvalidValue: the prompt or a value cannot be used; names the field and the position.
        """
        self._owner.check()
        progress = progress_of(
            prompt,
            Sampling(**sampling),
            request_id=request_id,
            timeout_s=timeout_s,
            patience=self._connection.patience(patience_s),
        )
        return self._stream(progress)

    def cancel(self, request_id: str) -> bool:
        """Cancel a request; return whether it was still running.

        Raises:
            ServiceError: the server was unreachable.
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

    def model(self) -> ModelInfo:
        """Return the model that the server serves; waits as `generate` does, raises as `cancel`."""
        return read_model(self._patiently(self._model.GetModel, pb.GetModelRequest()))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text; waits and raises as `model` does."""
        request = pb.TokenizeRequest(text=checked_text(text, "text"))
        return tuple(self._patiently(self._model.Tokenize, request).ids)

    def detokenize(self, token_ids: Iterable[object]) -> str:
        """Return the text of tokens; waits and raises as `model` does."""
        ids = checked_ids(token_ids, "token_ids", may_be_empty=True)
        return self._patiently(self._model.Detokenize, pb.DetokenizeRequest(ids=ids)).text

    def status(self) -> ServerStatus:
        """Return the state of the server and its counts; raises as `cancel` does."""
        return read_status(self._call(self._admin.GetStatus, pb.GetStatusRequest()))

    def drain(self) -> int:
        """Start draining: the server finishes in-flight requests, rejects new ones and exits.

        Returns how many requests are in flight; raises as `cancel` does.
        """
        return self._call(self._admin.Drain, pb.DrainRequest()).open_requests

    def set_drafters(self, num_drafters: int, *, timeout_s: float = 300.0) -> int:
        """Change how many drafters draft side by side; return how many do now.

        Raises as `set_drafter` does.
        """
        request = pb.SetDraftersRequest(
            drafters=whole_number(num_drafters, "`num_drafters`", minimum=0, maximum=2**31 - 1)
        )
        return self._call(self._admin.SetDrafters, request, timeout_s).drafters

    def set_drafter(self, drafter: str | None, *, timeout_s: float = 300.0) -> str:
        """Replace the drafter; return the name of the drafter that drafts now, "" for none.

        Args:
            drafter: a model's directory or name on the server; "" is the one that the server was
                started with, None stops drafting.
            timeout_s: the new drafter must have loaded by then.

        Raises:
            ServiceError: the drafter cannot be used, or the server was unreachable.
        """
        if drafter is None:
            self._call(self._admin.RemoveDrafter, pb.RemoveDrafterRequest(), timeout_s)
            return ""
        swap = pb.SwapDrafterRequest(drafter=checked_text(drafter, "`drafter`"))
        return self._call(self._admin.SwapDrafter, swap, timeout_s).drafter

    def add_adapter(self, name: str, directory: str, *, timeout_s: float = 300.0) -> AdapterStatus:
        """Serve an adapter under a name, in place of an older one; requests in flight keep theirs.

        Args:
            name: what requests name as their `model`.
            directory: the adapter's, on the server.
            timeout_s: all engines must hold it by then.

        Raises:
            ServiceError: the adapter cannot be served, or the server was unreachable.
        """
        request = pb.AddAdapterRequest(
            name=checked_text(name, "`name`"), directory=checked_text(directory, "`directory`")
        )
        return read_adapter_status(self._call(self._admin.AddAdapter, request, timeout_s).adapter)

    def remove_adapter(self, name: str) -> AdapterStatus:
        """Reject new requests that name an adapter; raises as `add_adapter` does."""
        request = pb.RemoveAdapterRequest(name=checked_text(name, "`name`"))
        return read_adapter_status(self._call(self._admin.RemoveAdapter, request).adapter)

    def list_adapters(self) -> list[AdapterStatus]:
        """Return the adapters that requests can name; raises as `cancel` does."""
        answer = self._call(self._admin.ListAdapters, pb.ListAdaptersRequest())
        return [read_adapter_status(one) for one in answer.adapters]

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout_s: float = CALL_S,
    ) -> _Response:
        self._owner.check()
        try:
            return method(
                request, metadata=self._connection.credentials.metadata(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise ServiceError(self._connection.address, error) from error

    def _patiently(
        self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request
    ) -> _Response:
        """Call a method that is safe to repeat, waiting for a server that is away."""
        patience = self._connection.patience()
        metadata = self._connection.credentials.metadata()
        while True:
            self._owner.check()
            try:
                return method(request, metadata=metadata, timeout=CALL_S)
            except grpc.RpcError as error:
                self._wait(patience.wait_s, error)

    def _wait(self, wait_s: Callable[[grpc.RpcError], float], error: grpc.RpcError) -> None:
        """Wait before the next attempt, or until the client is closed."""
        self._owner.check()
        try:
            self._closing.wait(wait_s(error))
        except grpc.RpcError:
            raise ServiceError(self._connection.address, error) from error

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
            raise  # the server has ended the request, or is unreachable
        except BaseException:  # the caller leaves: it closes the generator, or a signal arrives
            if request_id in self._running:  # else the client is closed
                self._cancel_quietly(request_id)
            raise
        finally:
            self._running.discard(request_id)

    def _cancel_quietly(self, *request_ids: str) -> None:
        """Cancel requests if the server is reachable; ignore it if not."""
        if not self._owner.is_here:
            return
        metadata = self._connection.credentials.metadata()
        calls = [
            self._generation.Cancel.future(
                pb.CancelRequest(request_id=request_id), metadata=metadata, timeout=CANCEL_S
            )
            for request_id in request_ids
        ]
        for call in calls:
            with contextlib.suppress(grpc.RpcError):  # a server that is gone generates nothing
                call.result()

    def _attempt(self, progress: CallProgress) -> Iterator[Chunk]:
        stream: Any = self._generation.Generate(
            progress.next_request(),
            metadata=self._connection.credentials.metadata(),
            timeout=progress.timeout_s(),
        )
        try:
            while not progress.finished:
                self._owner.check()  # a stream that began before a fork would hang
                event = next(stream, None)
                if event is None:
                    return
                chunk = progress.take(event)
                if chunk is not None:
                    yield chunk
        finally:
            if self._owner.is_here:
                stream.cancel()
