"""Translates messages to the bytes of `protos/paceline/v1/link.proto` and back.

Both directions reject values that the contract does not allow, so the engine receives only checked
messages.
"""

from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Wire

from parallel.messages import Message
from protos.paceline.v1 import link_pb2 as pb
from runtime.errors import ProtocolError
from runtime.links.from_wire import from_frame
from runtime.links.to_wire import to_frame

_Wire = TypeVar("_Wire", bound=Wire)


def encode(message: Message) -> bytes:
    """Return the frame of `message`.

    Raises:
        ProtocolError: a value is outside the range of its field.
    """
    return to_frame(message).SerializeToString()


def decode(data: bytes) -> Message:
    """Return the message of one frame's bytes.

    Raises:
        ProtocolError: the bytes are not a frame, or a value is missing or out of range.
    """
    return from_frame(parse(pb.Frame, data))


def parse(kind: type[_Wire], data: bytes) -> _Wire:
    """Parse one protobuf message; raises ProtocolError for malformed bytes."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ProtocolError(
            f"{len(data)} bytes are not a valid {kind.__name__}: {error}"
        ) from error
