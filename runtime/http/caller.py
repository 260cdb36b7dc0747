"""Who calls: the headers of a request, its client's name, and whether its token permits it."""

from starlette.types import Scope

from runtime.gateway.limits import CallDenied
from runtime.requests.accepted_tokens import AcceptedTokens

_Headers = tuple[tuple[str, str], ...]


def check_token(scope: Scope, tokens: AcceptedTokens) -> None:
    """Raise unless a request may use the service.

    Raises:
        CallDenied: the server has tokens, and the request has none of them.
    """
    if not tokens.may_use(_headers(scope)):
        raise CallDenied("this call needs a valid bearer token (`api_key` of OpenAI's clients)")


def client_name(scope: Scope, tokens: AcceptedTokens) -> str:
    """Return the name of a caller; the same over HTTP and gRPC."""
    host, port = scope.get("client") or ("", 0)
    peer = f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
    return tokens.name_of(_headers(scope), peer)


def _headers(scope: Scope) -> _Headers:
    return tuple(
        (key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]
    )
