"""Free what a rejected call holds when the call ends, without waiting for the garbage collector.

gRPC keeps the error that ends a call in the call's state. The traceback of that error keeps the
frames of the call, and with them its message: a cycle of few objects and many megabytes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from runtime.channels.handler_wrapping import Observer, ignore_event, wrap_handler


class ReleasingInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs alone
    """Breaks the cycle of each call that is aborted; must be the first interceptor of a server."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return a handler with the behavior of the next one."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        return wrap_handler(handler, _releasing)


@asynccontextmanager
async def _releasing(request: object, context: object) -> AsyncIterator[Observer]:  # noqa: ARG001
    try:
        yield ignore_event
    except grpc.aio.AbortError as error:
        aborted = error  # the name `error` is gone when the task ends
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: _release(aborted))
        raise


def _release(error: BaseException | None) -> None:
    """Remove the tracebacks of an error and of the errors it was raised from."""
    while error is not None:
        error.__traceback__ = None
        before, error.__context__ = error.__context__, None
        error = before
