"""One OpenTelemetry span for each request to the API, with the attributes of HTTP and GenAI."""

from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.requests.generation_span import GenerationSpan
from runtime.requests.tracing import Tracing

_KEY = "paceline.span"
_SERVER_ERROR = 500


class HttpSpans:
    """Traces requests, in the span of a wrapper if there is one."""

    def __init__(
        self, app: ASGIApp, tracing: Tracing, model_name: str, paths: Collection[str]
    ) -> None:
        """Trace the requests that an application answers.

        Args:
            app: the application.
            tracing: makes spans.
            model_name: the served model.
            paths: those that are traced; of others, as probes, nothing is recorded.
        """
        self._app = app
        self._tracing = tracing
        self._model_name = model_name
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request in its span."""
        if scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        is_ours = not self._tracing.is_traced()
        span = self._server_span(scope) if is_ours else self._tracing.current_span()
        generation = scope[_KEY] = GenerationSpan(span, self._model_name)
        status, is_complete = 0, False

        async def noting(message: Message) -> None:
            nonlocal status, is_complete
            status = message.get("status", status)
            await send(message)
            is_complete = "body" in message and not message.get("more_body", False)

        try:
            await self._app(scope, receive, noting)
        finally:
            failure = generation.failure
            if status:
                span.set_attribute("http.response.status_code", status)
            if failure is not None:
                self._fail(span, type(failure).__name__, str(failure))
            elif status >= _SERVER_ERROR:
                self._fail(span, str(status), "")
            elif not is_complete:
                self._fail(span, "CANCELLED", "the client disconnected")
            if is_ours:
                span.end()

    def _fail(self, span: Any, kind: str, text: str) -> None:
        span.set_attribute("error.type", kind)
        span.set_status(self._tracing.error_status(text))

    def _server_span(self, scope: Scope) -> Any:
        """Start the span of a request that no wrapper traces."""
        headers = {key.decode("latin-1"): held.decode("latin-1") for key, held in scope["headers"]}
        method, path = scope["method"], scope["path"]
        span = self._tracing.server_span(f"{method} {path}", headers)
        host, port = scope.get("client") or ("", 0)
        span.set_attributes(
            {"http.request.method": method, "http.route": path, "url.path": path}
            | {"url.scheme": scope["scheme"], "network.peer.address": host}
            | {"network.peer.port": port}
        )
        return span


class _NoSpan:
    """Records nothing."""

    def update_name(self, name: str) -> None:
        pass

    def set_attribute(self, key: str, value: object) -> None:
        pass

    def set_attributes(self, attributes: object) -> None:
        pass


def generation_span(scope: Scope) -> GenerationSpan:
    """Return what records a generation: the span of its request, or nothing without tracing."""
    found = scope.get(_KEY)
    return found if isinstance(found, GenerationSpan) else GenerationSpan(_NoSpan(), "")
