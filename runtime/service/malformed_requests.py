"""Reject malformed messages with INVALID_ARGUMENT; gRPC itself would log a traceback for each."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from runtime.channels.handler_wrapping import Observer, ignore_event, wrap_handler
from runtime.gateway.limits import RequestRejected
from runtime.service.call import reject_malformed

_OURS = "/paceline."


@dataclass(frozen=True, slots=True)
class _Malformed:
    """Stands for a message that could not be parsed."""

    size: int


class MalformedRequestInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs alone
    """Rejects the malformed messages of Paceline's own services."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return a handler that rejects what it cannot parse."""
        handler = await continuation(handler_call_details)
        if handler is None or not str(handler_call_details.method).startswith(_OURS):
            return handler
        deserialize = handler.request_deserializer or bytes

        def read(data: bytes) -> Any:
            try:
                return deserialize(data)
            except DecodeError:
                return _Malformed(len(data))

        return wrap_handler(handler, _rejecting, read=read)


@asynccontextmanager
async def _rejecting(request: object, context: Any) -> AsyncIterator[Observer]:
    if isinstance(request, _Malformed):
        text = f"a message of {request.size} bytes could not be parsed: is it of paceline.v1?"
        reject_malformed(RequestRejected(text))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
    yield ignore_event
