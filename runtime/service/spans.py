"""One OpenTelemetry span for each call, with the semantic attributes of RPC and GenAI.

No attribute has prompts or answers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from protos.paceline.v1 import service_pb2 as pb
from runtime.channels.handler_wrapping import Observer, wrap_handler
from runtime.links.wire_values import REASON_NAMES
from runtime.requests.generation_span import GenerationSpan
from runtime.requests.tracing import Tracing

_OURS = "/paceline."
_OPTIONAL = ("max_tokens", "temperature", "top_k", "top_p", "seed", "n")


class SpanInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs alone
    """Traces the calls of Paceline's own services, in the span of a wrapper if there is one."""

    def __init__(self, tracing: Tracing, model_name: str) -> None:
        self._tracing = tracing
        self._model_name = model_name

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return a handler that traces each call."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith(_OURS):
            return handler

        @asynccontextmanager
        async def traced(request: Any, context: Any) -> AsyncIterator[Observer]:
            with self._span(method, context) as span:
                generation = GenerationSpan(span, self._model_name)
                if isinstance(request, pb.GenerateRequest):
                    is_chat = request.WhichOneof("prompt") == "chat"
                    generation.asked(_fields(request), is_chat=is_chat, streams=True)
                yield _Generation(generation).note

        return wrap_handler(handler, traced)

    @contextmanager
    def _span(self, method: str, context: Any) -> Iterator[Any]:
        """Open the call's span, record how the call ends, and end the span if it is ours."""
        is_ours = not self._tracing.is_traced()
        span = self._server_span(method, context) if is_ours else self._tracing.current_span()
        code = grpc.StatusCode.OK
        try:
            yield span
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            code = context.code() or grpc.StatusCode.UNKNOWN
            if isinstance(code, int):
                code = next(known for known in grpc.StatusCode if known.value[0] == code)
            raise
        finally:
            if code is not grpc.StatusCode.OK:
                span.set_attribute("error.type", code.name)
                span.set_status(self._tracing.error_status(context.details() or code.name))
            if is_ours:
                span.set_attribute("rpc.grpc.status_code", code.value[0])
                span.end()

    def _server_span(self, method: str, context: Any) -> Any:
        """Start the span of a call that no wrapper traces."""
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        span = self._tracing.server_span(method.removeprefix("/"), metadata)
        service, _, name = method.removeprefix("/").partition("/")
        span.set_attributes(
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
            | {"network.peer.address": context.peer()}
        )
        return span


class _Generation:
    """Records a generation's events in its span."""

    def __init__(self, span: GenerationSpan) -> None:
        self._span = span
        self._has_samples = False

    def note(self, event: pb.GenerateResponse) -> None:
        """Record one event of a stream."""
        match event.WhichOneof("event"):
            case "accepted":
                self._span.accepted(event.accepted.prompt_tokens, event.accepted.request_id)
            case "tokens":
                self._span.continued()
            case "sample_finish":
                self._has_samples = True
                reason = REASON_NAMES[event.sample_finish.reason]
                self._span.sample_ended(reason, event.sample_finish.stats)
            case "finish":
                if not self._has_samples:
                    reason = REASON_NAMES[event.finish.reason]
                    self._span.sample_ended(reason, event.finish.stats)
                self._span.ended(event.finish.completion_tokens)


def _fields(request: pb.GenerateRequest) -> dict[str, Any]:
    """Return the fields that a request sets."""
    found: dict[str, Any] = {
        name: getattr(request, name)
        for name in _OPTIONAL
        if request.HasField(name)  # type: ignore[arg-type]  # names of optional fields, all
    }
    return found | {"stop": list(request.stop), "model": request.model}
