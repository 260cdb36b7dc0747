"""Messages that are none end in INVALID_ARGUMENT; gRPC itself would log a traceback for each."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from runtime.gateway.limits import RequestRefused
from runtime.service.call import refuse_unread

_OURS = "/paceline."


@dataclass(frozen=True, slots=True)
class _Malformed:
    """In place of a message that could not be read."""

    size: int


class ReadingInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs alone
    """Reads the messages of our own services."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return a handler that refuses what it cannot read."""
        handler = await continuation(handler_call_details)
        if handler is None or not str(handler_call_details.method).startswith(_OURS):
            return handler
        deserialize = handler.request_deserializer or bytes

        def read(data: bytes) -> Any:
            try:
                return deserialize(data)
            except DecodeError:
                return _Malformed(len(data))

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            await _refuse_malformed(request, context)
            async with aclosing(handler.unary_stream(request, context)) as events:
                async for event in events:
                    yield event

        async def call(request: Any, context: Any) -> Any:
            await _refuse_malformed(request, context)
            return await handler.unary_unary(request, context)

        make = (
            grpc.unary_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        serve: Any = stream if handler.response_streaming else call
        return make(
            serve, request_deserializer=read, response_serializer=handler.response_serializer
        )


async def _refuse_malformed(request: Any, context: Any) -> None:
    if isinstance(request, _Malformed):
        text = f"a message of {request.size} bytes could not be read: is it of paceline.v1?"
        refuse_unread(RequestRefused(text))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
