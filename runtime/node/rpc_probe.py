"""One gRPC call to a server that may be absent, silent or no gRPC server; fails within seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import grpc

from runtime.channels.channel import open_internal_channel


class Failure(Enum):
    """The reason why a probed server gave no answer."""

    UNREACHABLE = auto()
    """No process listens there, or the name has no address."""
    SILENT = auto()
    """The connection or the call had no answer before the deadline."""
    FOREIGN = auto()
    """The server there does not speak gRPC, or does not have this method."""
    UNAUTHENTICATED = auto()
    """The server requires credentials that the call does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailed:
    """A probe without an answer."""

    failure: Failure
    detail: str
    """gRPC's own message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """A client's files for mutual TLS."""

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
    """Return a method's serialized reply, or the reason for its absence; blocks for at most
    `timeout_s`."""
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
    """Return whether a connection failed before the other side sent a byte."""
    return any(
        words in detail
        for words in ("refused", "resol", "lookup", "o route", "unreachable", "imed out", "imeout")
    )
