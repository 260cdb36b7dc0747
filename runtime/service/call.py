"""One call of Generate: its client, its request, and what happens when it ends in any way."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message as ProtoMessage

from runtime.errors import PacelineError
from runtime.gateway.gateway import Gateway
from runtime.gateway.journal import OpenRequest
from runtime.gateway.metrics import EndReason

Context: TypeAlias = "grpc.aio.ServicerContext[ProtoMessage, ProtoMessage]"
_SLACK_S = 0.1
_SLACK = 0.02


class Call:
    """Reads a request from acceptance until the call ends.

    gRPC does not close the generator of a call that is cancelled while a message is being sent, and
    starts none for a call that is cancelled before its message is read. So the end of the call is
    handled when the call's task ends.
    """

    def __init__(self, gateway: Gateway) -> None:
        """Start with the arrival of a call; must run in its task."""
        self.client = ""
        self._gateway = gateway
        self._context: Context | None = None
        self.name = ""
        self._request: OpenRequest | None = None
        self._is_rejected = False
        self._timeout_s: float | None = None
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._end())

    def begin(self, context: Context, client: str, name: str) -> None:
        """Store the client and the request's name."""
        self.client = client
        self._context, self.name = context, name
        self._timeout_s = context.time_remaining()

    def accept(self, request: OpenRequest) -> None:
        """Count the call as a reader of a request until the call ends."""
        self._request = request
        self._gateway.add_reader(request)

    def reject(self, error: PacelineError) -> None:
        """Record the call as rejected, unless it was accepted before."""
        if self._request is None:
            self._is_rejected = True
            self._gateway.endings.rejected(self.client, self.name, error)

    def _end(self) -> None:
        late = self._is_late()
        if self._request is not None:
            self._gateway.remove_reader(self._request, late=late)
        elif not self._is_rejected:
            failed = self._context is not None and self._context.done()  # done: by the server
            gone = EndReason.DEADLINE if late else EndReason.CANCELLED
            reason = EndReason.ERROR if failed else gone
            self._gateway.endings.left(self.client, self.name, reason)

    def _is_late(self) -> bool:
        """Return whether the client's deadline has passed.

        A client may end its call a moment before the deadline that the server knows, which the wire
        rounds up by at most one in a hundred.
        """
        left_s = self._context.time_remaining() if self._context is not None else None
        if left_s is None or self._timeout_s is None:
            return False
        return left_s <= min(_SLACK_S + _SLACK * self._timeout_s, self._timeout_s / 2)


_CALL: ContextVar[Call | None] = ContextVar("call", default=None)


def current_call() -> Call:
    """Return the call of Generate in whose task this runs."""
    call = _CALL.get()
    assert call is not None, "the interceptor is missing"
    return call


def reject_malformed(error: PacelineError) -> None:
    """Record the running call as rejected if it is a call of Generate with a malformed message."""
    call = _CALL.get()
    if call is not None:
        call.reject(error)


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs alone
    """Creates a `Call` for each call of Generate before its message is read, so that all count."""

    def __init__(self, gateway: Gateway, method: str) -> None:
        """Store the full name of Generate."""
        self._gateway = gateway
        self._method = method

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Create the call."""
        if handler_call_details.method == self._method:
            _CALL.set(Call(self._gateway))
        return await continuation(handler_call_details)
