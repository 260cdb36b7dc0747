"""Authenticate gRPC calls: which token permits which method."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from protos.paceline.v1 import service_pb2 as pb
from runtime.requests.accepted_tokens import AcceptedTokens, Headers

_HEALTH = "/grpc.health.v1.Health/"  # probes carry no token
_ADMIN_ONLY = frozenset(
    f"/{method.containing_service.full_name}/{method.name}"
    for method in pb.DESCRIPTOR.services_by_name["AdminService"].methods
    if method.name != "GetStatus"
)


def rejection(
    tokens: AcceptedTokens, method: str, metadata: Headers
) -> tuple[grpc.StatusCode, str] | None:
    """Return the status and the reason that reject a call, or None if it may proceed."""
    if method.startswith(_HEALTH):
        return None
    is_admin = method in _ADMIN_ONLY
    needs_token = tokens.users or (is_admin and tokens.admins)
    if needs_token and not tokens.is_known(metadata):
        return grpc.StatusCode.UNAUTHENTICATED, "this call needs a valid bearer token"
    if is_admin and not tokens.may_administer(metadata):
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
        rejected = rejection(self._tokens, method, details.invocation_metadata)
        if rejected is None:
            return await continuation(handler_call_details)

        async def call(_: object, context: Any) -> None:
            peer = self._tokens.name_of(context.invocation_metadata(), context.peer())
            self._denied(method, peer, rejected[1])
            await context.abort(*rejected)

        return grpc.unary_unary_rpc_method_handler(call)
