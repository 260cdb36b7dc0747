"""Errors in OpenAI's form: a status, and a body that names the field."""

import re
from typing import Any

from starlette.responses import JSONResponse

from runtime.errors import ConfigError, DeadlineExceeded, PacelineError
from runtime.gateway.limits import CallDenied, GatewayBusy, GatewayDown, RequestRejected
from runtime.requests.served_model import UnknownModel

RETRY_AFTER_S = 1
_FIELD = re.compile(r"`([a-z_]+)`|((?:messages|prompt|tools)\b(?:\[\d+\])?)")


class HttpRejection(RequestRejected):
    """A request that this wire rejects with a status of its own."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        """Store the status and OpenAI's code, if it has one."""
        super().__init__(message)
        self.status = status
        self.code = code


def status_of(error: PacelineError) -> int:
    """Return the HTTP status of an error."""
    match error:
        case HttpRejection():
            return error.status
        case UnknownModel():
            return 404
        case RequestRejected() | ConfigError():
            return 400
        case CallDenied():
            return 401
        case GatewayBusy():
            return 429
        case GatewayDown():
            return 503
        case DeadlineExceeded():
            return 504
    return 500


def error_body(error: PacelineError) -> dict[str, Any]:
    """Return the body of an error, as OpenAI's clients read it."""
    kind, code = "invalid_request_error", None
    match error:
        case HttpRejection():
            code = error.code
        case UnknownModel():
            code = "model_not_found"
        case CallDenied():
            code = "invalid_api_key"
        case GatewayBusy():
            kind, code = "rate_limit_error", "rate_limit_exceeded"
        case GatewayDown():
            kind, code = "service_unavailable_error", "service_unavailable"
        case DeadlineExceeded():
            kind, code = "timeout_error", "deadline_exceeded"
        case RequestRejected() | ConfigError():
            pass
        case _:
            kind, code = "server_error", "internal_error"
    message = str(error)
    field = _FIELD.match(message) if status_of(error) == 400 else None
    param = next(filter(None, field.groups()), None) if field else None
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: PacelineError, *, closes: bool = False) -> JSONResponse:
    """Return the response for an error.

    Args:
        error: why the request is rejected, or failed.
        closes: whether the connection ends, because the rest of the request is not read.
    """
    headers: dict[str, str] = {}
    status = status_of(error)
    if status in (429, 503):
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if closes:
        headers["connection"] = "close"
    return JSONResponse(error_body(error), status, headers)
