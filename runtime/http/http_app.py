"""The ASGI application: routes, bearer tokens, CORS, counts, and errors in OpenAI's form."""

import logging
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.errors import PacelineError
from runtime.gateway.gateway import Gateway
from runtime.gateway.limits import CallDenied
from runtime.http.caller import check_token, client_name
from runtime.http.engine_events import EngineEvents
from runtime.http.generation_endpoint import GenerationEndpoint
from runtime.http.http_errors import HttpRejection, error_response
from runtime.http.http_spans import HttpSpans
from runtime.http.model_endpoints import ModelEndpoints
from runtime.http.openai_requests import read_chat, read_completion
from runtime.http.probes import Probes
from runtime.http.request_body import ClientGone, UnreadBody
from runtime.http.static_page import PAGE_FILES, page_file
from runtime.requests.accepted_tokens import AcceptedTokens
from runtime.requests.admission import Admission
from runtime.requests.tracing import Tracing

_LOG = logging.getLogger("paceline.http")
_COMPLETIONS, _CHAT = "/v1/completions", "/v1/chat/completions"
OPEN_PATHS = frozenset({"/health", "/ready", *PAGE_FILES})
"""Paths without a token: probes carry none, and the page asks for one."""
_UNTRACED = {"/metrics", "/events"}
"""Paths of monitors, which ask again and again, or for as long as the server lives."""
_OTHER = "other"


def http_app(
    admission: Admission,
    tokens: AcceptedTokens,
    *,
    origins: Sequence[str],
    max_body_bytes: int,
    tracing: Tracing | None = None,
) -> ASGIApp:
    """Return the application.

    Args:
        admission: brings requests to the gateway.
        tokens: accepted bearer tokens.
        origins: browser pages of these origins may call it; "*" permits all, none is the default.
        max_body_bytes: size above which a body is rejected.
        tracing: makes a span of each request; None makes none.
    """
    model = ModelEndpoints(admission.model, admission.reader, max_body_bytes=max_body_bytes)
    probes = Probes(admission.gateway)

    def generation(path: str, read: Any) -> Route:
        endpoint = GenerationEndpoint(admission, tokens, read, max_body_bytes=max_body_bytes)
        return Route(path, endpoint, methods=["POST"])

    routes = [
        generation(_COMPLETIONS, read_completion),
        generation(_CHAT, read_chat),
        Route("/v1/models", model.list_models, methods=["GET"]),
        Route("/v1/models/{name:path}", model.get_model, methods=["GET"]),
        Route("/v1/embeddings", model.embeddings, methods=["POST"]),
        Route("/tokenize", model.tokenize, methods=["POST"]),
        Route("/detokenize", model.detokenize, methods=["POST"]),
        Route("/version", model.version, methods=["GET"]),
        Route("/health", probes.health, methods=["GET"]),
        Route("/ready", probes.ready, methods=["GET"]),
        Route("/metrics", probes.metrics, methods=["GET"]),
        *(Route(path, page_file, methods=["GET"]) for path in PAGE_FILES),
        Route("/events", EngineEvents(admission.gateway, admission.model), methods=["GET"]),
    ]
    middleware = [Middleware(_Tokens, tokens=tokens, gateway=admission.gateway)]
    if origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
        middleware.insert(0, cors)
    handlers = {404: _not_found, 405: _wrong_method, PacelineError: _rejected, ClientGone: _gone}
    inner = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
    paths = {route.path for route in routes if isinstance(route, Route)}
    outermost = _Outermost(inner, admission.gateway, paths)
    if tracing is None:
        return outermost
    return HttpSpans(outermost, tracing, admission.model.name, paths - OPEN_PATHS - _UNTRACED)


class _Outermost:
    """Counts responses, and records what no endpoint expects."""

    def __init__(self, app: ASGIApp, gateway: Gateway, paths: set[str]) -> None:
        self._app = app
        self._gateway = gateway
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["path"] in self._paths else _OTHER
        is_open = False

        async def counting(message: Message) -> None:
            nonlocal is_open
            if message["type"] == "http.response.start":
                is_open = True
                self._gateway.metrics.count_response(path, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception as error:
            _LOG.exception("a request of %s failed", path)
            if is_open:
                raise  # the server cuts the connection
            failure = PacelineError(f"the server failed: {type(error).__name__}")
            await error_response(failure, closes=True)(scope, receive, counting)


class _Tokens:
    """Rejects requests without a valid token."""

    def __init__(self, app: ASGIApp, tokens: AcceptedTokens, gateway: Gateway) -> None:
        self._app = app
        self._tokens = tokens
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] not in OPEN_PATHS:
                check_token(scope, self._tokens)
        except CallDenied as error:
            if scope["path"] in (_COMPLETIONS, _CHAT):
                self._gateway.endings.rejected(client_name(scope, self._tokens), "", error)
            await error_response(error, closes=True)(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def _not_found(request: Request, _: Exception) -> Response:
    path = request.url.path
    return error_response(HttpRejection(404, f"there is no {path} here", code="unknown_url"))


async def _wrong_method(request: Request, error: Exception) -> Response:
    text = f"{request.url.path} does not take {request.method}"
    response = error_response(HttpRejection(405, text, code="method_not_allowed"))
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def _rejected(_: Request, error: Exception) -> Response:
    assert isinstance(error, PacelineError)
    return error_response(error, closes=isinstance(error, UnreadBody))


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nginx's status of a client that left; it reaches no client
