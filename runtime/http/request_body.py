"""Read the JSON object of a request: its type, its size and its time are limited."""

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from parallel.errors import PacelineError
from runtime.files.documents import DocumentError
from runtime.files.strict_json import parse_object
from runtime.http.http_errors import HttpRejection

_BODY_S = 60.0
_TYPES = ("application/json", "text/json")


class ClientGone(PacelineError):
    """The client has disconnected; there is no caller for an answer."""


class UnreadBody(HttpRejection):
    """The body was not read to its end, so that the connection cannot be used again."""


@dataclass(frozen=True, slots=True)
class JsonBody:
    """The bytes of a body."""

    data: bytes

    def parse(self) -> dict[str, Any]:
        """Return the object.

        Raises:
            HttpRejection: the bytes are not a JSON object; says where.
        """
        if not self.data.strip():
            raise HttpRejection(400, "the body is empty: send a JSON object")
        try:
            return parse_object(self.data.decode("utf-8-sig"), "the body")
        except UnicodeDecodeError as error:
            reason = f"the body is not UTF-8: byte {error.start}"
        except DocumentError as error:
            reason = str(error)
        # Without the error before it, whose frames hold what was parsed: up to 20 times the body.
        raise HttpRejection(400, reason)


async def read_json(request: Request, max_bytes: int) -> JsonBody:
    """Return the body of a request; waits for it at most a minute.

    A browser asks before it sends JSON to another origin, but not before it sends plain text: only
    JSON is accepted, so that foreign pages cannot use a server on this machine.

    Raises:
        HttpRejection: it has another type, is too large, or does not arrive in time.
        ClientGone: the client disconnected.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        shown = f"is {kind!r}" if kind else "is missing"
        raise UnreadBody(415, f"the header content-type {shown}: send application/json")
    size = request.headers.get("content-length", "0")
    if size.isdecimal() and int(size) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(_BODY_S):
            return await _read(request, max_bytes)
    except TimeoutError as error:
        raise UnreadBody(408, f"the body did not arrive within {_BODY_S:.0f} s") from error
    except ClientDisconnect as error:
        raise ClientGone from error


async def _read(request: Request, max_bytes: int) -> JsonBody:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
    return JsonBody(bytes(data))


def _too_large(max_bytes: int) -> UnreadBody:
    return UnreadBody(413, f"the body is larger than {max_bytes} bytes: shorten the prompt")
