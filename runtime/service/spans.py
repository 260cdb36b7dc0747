"""One OpenTelemetry span for each call, with the semantic attributes of RPC and GenAI.

No attribute has prompts or answers.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from protos.paceline.v1 import service_pb2 as pb
from runtime.channels.handler_wrapping import Observer, wrap_handler
from runtime.links.wire_values import REASON_NAMES
from runtime.service.tracing import Tracing

_OURS = "/paceline."
_OPTIONAL = ("max_tokens", "temperature", "top_k", "top_p", "seed")
_MAX_INT = 2**63 - 1  # of an attribute


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
            with self._span(method, request, context) as span:
                yield _Generation(span, self._model_name).note

        return wrap_handler(handler, traced)

    @contextmanager
    def _span(self, method: str, request: Any, context: Any) -> Iterator[Any]:
        """Open the call's span, record how the call ends, and end the span if it is ours."""
        is_ours = not self._tracing.is_traced()
        span = self._server_span(method, context) if is_ours else self._tracing.current_span()
        if isinstance(request, pb.GenerateRequest):
            span.update_name(f"{_operation(request)} {self._model_name}")
            span.set_attributes(_request_attributes(request, self._model_name))
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

    def __init__(self, span: Any, model_name: str) -> None:
        self._span = span
        self._model_name = model_name
        self._start_s = time.monotonic()
        self._awaits_first = True
        self._reasons: list[str] = []

    def note(self, event: pb.GenerateResponse) -> None:
        """Record one event of a stream."""
        match event.WhichOneof("event"):
            case "accepted":
                self._span.set_attribute("gen_ai.usage.input_tokens", event.accepted.prompt_tokens)
                self._span.set_attribute("gen_ai.response.model", self._model_name)
                if event.accepted.request_id:
                    self._span.set_attribute("gen_ai.response.id", event.accepted.request_id)
            case "tokens" if self._awaits_first:
                self._awaits_first = False
                first_s = time.monotonic() - self._start_s
                self._span.set_attribute("gen_ai.response.time_to_first_chunk", first_s)
            case "sample_finish":
                self._reasons.append(REASON_NAMES[event.sample_finish.reason])
                self._count(event.sample_finish.stats)
            case "finish":
                reasons = self._reasons or [REASON_NAMES[event.finish.reason]]
                self._span.set_attribute("gen_ai.response.finish_reasons", reasons)
                tokens = event.finish.completion_tokens
                self._span.set_attribute("gen_ai.usage.output_tokens", tokens)
                if not self._reasons:
                    self._count(event.finish.stats)

    def _count(self, stats: Any) -> None:
        self._span.set_attributes(
            {
                "paceline.queued_s": stats.queued_s,
                "paceline.rounds": stats.rounds,
                "paceline.drafted_tokens": stats.drafted,
                "paceline.accepted_tokens": stats.accepted,
                "gen_ai.usage.cache_read.input_tokens": stats.cached_prompt,
            }
        )


def _operation(request: pb.GenerateRequest) -> str:
    return "chat" if request.WhichOneof("prompt") == "chat" else "text_completion"


def _request_attributes(request: pb.GenerateRequest, model_name: str) -> dict[str, Any]:
    """Return the attributes of the fields that a request sets."""
    found: dict[str, Any] = {
        "gen_ai.operation.name": _operation(request),
        "gen_ai.provider.name": "paceline",
        "gen_ai.request.model": model_name,
        "gen_ai.request.stream": True,
    }
    for name in _OPTIONAL:
        if request.HasField(name):  # type: ignore[arg-type]  # names of optional fields, all
            found[f"gen_ai.request.{name}"] = getattr(request, name)
    if found.get("gen_ai.request.seed", 0) > _MAX_INT:
        del found["gen_ai.request.seed"]
    if request.HasField("n") and request.n != 1:
        found["gen_ai.request.choice.count"] = request.n
    if request.stop:
        found["gen_ai.request.stop_sequences"] = list(request.stop)
    return found
