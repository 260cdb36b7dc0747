"""What a server reports about its adapters."""

from dataclasses import dataclass

from protos.paceline.v1 import service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStatus:
    """An adapter that requests can name; the counts are since the server started."""

    name: str
    version: str
    """The name with a digest of the numbers."""
    directory: str
    """On the server."""
    num_bytes: int
    """The size of its numbers."""
    open_requests: int
    """Samples queued or running."""
    finished: int
    """Samples that ended with an answer."""
    tokens: int
    drafted: int
    """Draft tokens that the target scored."""
    accepted: int


def read_adapter_status(wire: pb.AdapterStatus) -> AdapterStatus:
    """Return the value of a message."""
    return AdapterStatus(
        name=wire.name,
        version=wire.version,
        directory=wire.directory,
        num_bytes=wire.num_bytes,
        open_requests=wire.open_requests,
        finished=wire.finished,
        tokens=wire.tokens,
        drafted=wire.drafted,
        accepted=wire.accepted,
    )
