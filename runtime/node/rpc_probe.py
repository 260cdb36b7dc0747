"""One gRPC call to a server that may be absent, silent or of another kind; fails within seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import grpc

from runtime.channels.channel import open_internal_channel


class Failure(Enum):
    """Why a probed server gave no answer."""

    UNREACHABLE = auto()
    """No process listens there, or the name has no address."""
    SILENT = auto()
    """The connection or the call had no answer before the deadline."""
    FOREIGN = auto()
    """What listens there is no gRPC server, or not one with this method."""
    UNAUTHENTICATED = auto()
    """The server requires credentials that the call did not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailed:
    """A call without an answer."""

    failure: Failure
    detail: str
    """What gRPC said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What a client needs to open a TLS connection in which both sides show a certificate."""

    root_ca: bytes
    private_key: bytes
    certificate: bytes


def probe(
    address: str,
    method: str,
    request: bytes,
    *,
    metadata: Sequence[tuple[str, str]] = (),
    tls: TlsFiles | None = None,
    timeout_s: float,
) -> bytes | ProbeFailed:
    """Return a method's serialized reply, or why there is none; blocks for at most `timeout_s`."""
    identity = None
    if tls is not None:
        identity = grpc.ssl_channel_credentials(tls.root_ca, tls.private_key, tls.certificate)
    with open_internal_channel(address, tls=identity) as channel:
        try:
            call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
            reply: bytes = call(request, timeout=timeout_s, metadata=tuple(metadata))
        except grpc.RpcError as error:
            return ProbeFailed(
                failure=_failure(error.code(), error.details() or ""),
                detail=error.details() or error.code().name,
            )
    return reply


def _failure(code: grpc.StatusCode, detail: str) -> Failure:
    match code:
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return Failure.UNAUTHENTICATED
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Failure.SILENT
        case grpc.StatusCode.UNAVAILABLE if _never_spoke(detail):
            return Failure.UNREACHABLE
    return Failure.FOREIGN


def _never_spoke(detail: str) -> bool:
    """Return whether a failed connection ended before the other side sent a byte."""
    return any(
        words in detail
        for words in ("refused", "resol", "lookup", "o route", "unreachable", "imed out", "imeout")
    )
