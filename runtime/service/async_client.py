"""The client for asyncio; lives on the loop that made it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import Self, Unpack

import grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.channels.channel import open_async_channel
from runtime.channels.credentials import Credentials
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


class AsyncClient:
    """A connection to a server, for one event loop; tasks may share it."""

    def __init__(
        self, address: str, *, token: str | None = None, credentials: Credentials | None = None
    ) -> None:
        """Prepare a connection; arguments as for `Client`."""
        self._address = address
        self._credentials = credentials or Credentials(token=token)
        self._channel = open_async_channel(address, self._credentials, CHANNEL_OPTIONS)
        self._generation: rpc.GenerationServiceAsyncStub = rpc.GenerationServiceStub(self._channel)

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
        """Close the connection; streams that run end."""
        await self._channel.close(None)

    def generate(
        self,
        prompt: Prompt,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        max_attempts: int = 8,
        **sampling: Unpack[SamplingFields],
    ) -> AsyncIterator[Chunk]:
        """Yield an answer as it is committed; arguments and errors as for `Client.generate`.

        Closing the iterator, or cancelling the task that reads it, cancels the request.
        """
        progress = progress_of(
            prompt,
            Sampling(**sampling),
            request_id=request_id,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
        )
        return self._stream(progress)

    async def cancel(self, request_id: str) -> bool:
        """End a request; True if it was running still.

        Raises:
            ServiceError: the server was not to be reached.
        """
        request = pb.CancelRequest(request_id=request_id)
        metadata = self._credentials.metadata()
        try:
            answer = await self._generation.Cancel(request, metadata=metadata, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise ServiceError(self._address, error) from error
        return answer.was_running

    async def _stream(self, progress: Progress) -> AsyncIterator[Chunk]:
        try:
            while not progress.finished:
                try:
                    async with aclosing(self._attempt(progress)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                except grpc.aio.AioRpcError as error:
                    await asyncio.sleep(progress.wait_before_retry(error))
        except (GeneratorExit, asyncio.CancelledError):
            with contextlib.suppress(ServiceError):  # a server that is gone decodes nothing
                await asyncio.shield(self.cancel(progress.request.request_id))
            raise
        except grpc.aio.AioRpcError as error:
            raise ServiceError(self._address, error) from error

    async def _attempt(self, progress: Progress) -> AsyncGenerator[Chunk]:
        stream = self._generation.Generate(
            progress.next_request(),
            metadata=self._credentials.metadata(),
            timeout=progress.timeout_s(),
        )
        try:
            async for event in stream:
                chunk = progress.take(event)
                if chunk is not None:
                    yield chunk
        finally:
            stream.cancel()
