"""Free what a refused call holds when the call ends, not when the garbage collector finds it.

gRPC keeps the error that ends a call in the call's state. The traceback of that error keeps the
frames of the call, and with them its message: a cycle of few objects and many megabytes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc


class ReleasingInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs alone
    """Breaks the cycle of each call that is aborted; comes first, to see all of them."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return a handler that does what the next one does."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            with _releasing():
                async with aclosing(handler.unary_stream(request, context)) as events:
                    async for event in events:
                        yield event

        async def call(request: Any, context: Any) -> Any:
            with _releasing():
                return await handler.unary_unary(request, context)

        serve: Any = stream if handler.response_streaming else call
        make = (
            grpc.unary_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(
            serve,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


@contextmanager
def _releasing() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AbortError as error:
        aborted = error  # the name `error` is gone when the task ends
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: _release(aborted))
        raise


def _release(error: BaseException | None) -> None:
    """Take the tracebacks off an error and off those it was raised from."""
    while error is not None:
        error.__traceback__ = None
        before, error.__context__ = error.__context__, None
        error = before
