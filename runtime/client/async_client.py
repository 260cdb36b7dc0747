"""The client for asyncio, which connects on the event loop that first uses it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import Self, Unpack

import grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.channels.channel import CLIENT_OPTIONS, check_channel, open_async_channel
from runtime.checking.sampling_fields import Sampling, SamplingFields, checked_name
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
from runtime.client.owner import ClientUnusable, Owner
from runtime.errors import PacelineError


class AsyncClient:
    """A connection to a server, for one event loop at a time; tasks may share it.

    All methods raise ClientUnusable on another loop while the first one runs, in a process that was
    forked from the client's, or after `close`.
    """

    def __init__(
        self,
        address: str,
        **fields: Unpack[ConnectionFields],
    ) -> None:
        """Prepare a connection, with or without a running loop; arguments as for `Client`."""
        self._connection = Connection.to(address, **fields)
        check_channel(address, self._connection.credentials)
        self._owner = Owner()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._running: set[str] = set()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Cancel the running requests and close the connection; closing twice does no harm."""
        if not self._owner.is_here:
            return
        channel, running = self._channel, list(self._running)
        self._running.clear()
        if channel is not None and self._loop is asyncio.get_running_loop():
            await asyncio.gather(*(self._cancel_quietly(request_id) for request_id in running))
            await channel.close(None)
        self._channel = None
        self._owner.close()

    def _stub(self) -> "rpc.GenerationServiceAsyncStub":
        """Return the stub of the running loop's channel; raises ClientUnusable."""
        self._owner.check()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise ClientUnusable(
                    "this client belongs to another event loop: create a client on each loop"
                )
            self._channel = open_async_channel(
                self._connection.address, self._connection.credentials, CLIENT_OPTIONS
            )
            self._loop = loop
        assert self._channel is not None
        return rpc.GenerationServiceStub(self._channel)

    def generate(
        self,
        prompt: Prompt,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        patience_s: float | None = None,
        **sampling: Unpack[SamplingFields],
    ) -> AsyncIterator[Chunk]:
        """Yield the answer as tokens are committed; arguments and errors as for `Client.generate`.

        Closing the iterator, or cancelling the task that reads it, cancels the request.
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

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request; return whether it was still running.

        Raises:
            ServiceError: the server was unreachable.
        """
        try:
            return await self._cancel(request_id, CALL_S)
        except grpc.aio.AioRpcError as error:
            raise ServiceError(self._connection.address, error) from error

    async def _cancel(self, request_id: str, timeout_s: float) -> bool:
        request = pb.CancelRequest(request_id=checked_name(request_id))
        metadata = self._connection.credentials.metadata()
        try:
            answer = await self._stub().Cancel(request, metadata=metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return answer.was_running

    async def _cancel_quietly(self, request_id: str) -> None:
        """Cancel a request if the server is reachable; ignore it if not."""
        with contextlib.suppress(grpc.aio.AioRpcError, ClientUnusable):
            await self._cancel(request_id, CANCEL_S)

    async def _stream(self, progress: CallProgress) -> AsyncIterator[Chunk]:
        request_id = progress.request.request_id
        self._running.add(request_id)
        try:
            while not progress.finished:
                try:
                    async with aclosing(self._attempt(progress)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                except grpc.aio.AioRpcError as error:
                    await asyncio.sleep(self._wait_s(progress, error))
        except PacelineError:
            raise  # the server has ended the request, or is unreachable
        except BaseException:  # the caller leaves: it closes the generator, or is cancelled
            if request_id in self._running:  # else the client is closed
                await asyncio.shield(self._cancel_quietly(request_id))
            raise
        finally:
            self._running.discard(request_id)

    def _wait_s(self, progress: CallProgress, error: grpc.aio.AioRpcError) -> float:
        self._owner.check()
        try:
            return progress.wait_before_retry(error)
        except grpc.aio.AioRpcError:
            raise ServiceError(self._connection.address, error) from error

    async def _attempt(self, progress: CallProgress) -> AsyncGenerator[Chunk]:
        stream = self._stub().Generate(
            progress.next_request(),
            metadata=self._connection.credentials.metadata(),
            timeout=progress.timeout_s(),
        )
        try:
            async for event in stream:
                chunk = progress.take(event)
                if chunk is not None:
                    yield chunk
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # gRPC cancels on a closed channel
                self._owner.check()
            raise
        finally:
            stream.cancel()
