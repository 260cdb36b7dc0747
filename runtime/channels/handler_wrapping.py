"""Run what a gRPC method's handler does inside a context: the part that interceptors share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import grpc

Observer = Callable[[Any], None]
"""Called with each event of a response stream before it is sent."""
Surroundings = Callable[[Any, Any], AbstractAsyncContextManager[Observer]]
"""Makes a context from a call's request and context; it sees the exception that ends the call."""


def ignore_event(_: object) -> None:
    """Observe nothing."""


def wrap_handler(
    handler: Any, surroundings: Surroundings, *, read: Callable[[bytes], Any] | None = None
) -> Any:
    """Return a handler that runs another one inside `surroundings`.

    Args:
        handler: of a method with a single request, from the next interceptor.
        surroundings: entered before the handler runs; may abort the call.
        read: deserializes requests; None keeps the handler's own way.
    """

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        async with (
            surroundings(request, context) as observe,
            aclosing(handler.unary_stream(request, context)) as events,
        ):
            async for event in events:
                observe(event)
                yield event

    async def call(request: Any, context: Any) -> Any:
        async with surroundings(request, context):
            return await handler.unary_unary(request, context)

    serve: Any = stream if handler.response_streaming else call
    make = (
        grpc.unary_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(
        serve,
        request_deserializer=read or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
