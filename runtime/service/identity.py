"""Authenticate callers: accepted bearer tokens, their permissions, and the names of clients."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from protos.paceline.v1 import service_pb2 as pb

_HEALTH = "/grpc.health.v1.Health/"  # probes carry no token
_ADMIN_ONLY = frozenset(
    f"/{method.containing_service.full_name}/{method.name}"
    for method in pb.DESCRIPTOR.services_by_name["AdminService"].methods
    if method.name != "GetStatus"
)
Metadata = Iterable[tuple[str, str | bytes]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedTokens:
    """The bearer tokens that a server accepts."""

    users: tuple[str, ...] = ()
    """If empty, calls other than those of administrators need no token."""
    admins: tuple[str, ...] = ()
    """Tokens that may also administer the server; if empty, those of `users` may."""

    def __bool__(self) -> bool:
        return bool(self.users or self.admins)

    def name_of(self, metadata: Metadata, peer: str) -> str:
        """Return the name of a caller for limits, queues and logs.

        It is a digest of the accepted token, or without one the peer's address without its port;
        other headers of the caller have no influence.
        """
        token = self.accepted(metadata)
        if token is not None:
            return "token-" + hashlib.sha256(token.encode()).hexdigest()[:12]
        return peer if peer.startswith("unix") else peer.rpartition(":")[0]

    def accepted(self, metadata: Metadata) -> str | None:
        """Return the token of a call if it is accepted."""
        return _matching(self.users + self.admins, metadata)

    def refusal(self, method: str, metadata: Metadata) -> tuple[grpc.StatusCode, str] | None:
        """Return the status and the reason that reject a call, or None if it may proceed."""
        if method.startswith(_HEALTH):
            return None
        is_admin = method in _ADMIN_ONLY
        if not self.users and not (is_admin and self.admins):
            return None
        if self.accepted(metadata) is None:
            return grpc.StatusCode.UNAUTHENTICATED, "this call needs a valid bearer token"
        may_administer = not self.admins or _matching(self.admins, metadata) is not None
        if is_admin and not may_administer:
            reason = "this token may not administer the server: use an administrator's token"
            return grpc.StatusCode.PERMISSION_DENIED, reason
        return None


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs alone
    """Rejects calls whose token does not permit them."""

    def __init__(self, tokens: AcceptedTokens, denied: Callable[[str, str, str], None]) -> None:
        """Store the tokens, and a callback for the method, client and reason of a rejected call."""
        self._tokens = tokens
        self._denied = denied

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Pass a call on, or reject it with UNAUTHENTICATED or PERMISSION_DENIED."""
        details = handler_call_details
        method = str(details.method)
        refusal = self._tokens.refusal(method, details.invocation_metadata)
        if refusal is None:
            return await continuation(handler_call_details)

        async def call(_: object, context: Any) -> None:
            peer = self._tokens.name_of(context.invocation_metadata(), context.peer())
            self._denied(method, peer, refusal[1])
            await context.abort(*refusal)

        return grpc.unary_unary_rpc_method_handler(call)


def _matching(tokens: tuple[str, ...], metadata: Metadata) -> str | None:
    given = next((value for key, value in metadata or () if key == "authorization"), "")
    kind, _, token = str(given).strip().partition(" ")
    if kind.lower() != "bearer":
        return None
    offered = token.strip().encode()
    # Every token is compared in constant time, so that timing reveals nothing.
    matches = [known for known in tokens if hmac.compare_digest(offered, known.encode())]
    return matches[0] if matches else None
