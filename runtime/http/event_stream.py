"""Server-sent events: the chunks of an answer on an open response."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import Send

KEEP_ALIVE_S = 15.0
"""A stream that is silent for so long gets a comment: proxies cut connections without traffic."""

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx sends each event at once
)


class EventStream:
    """Writes events to a response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._num_writes = 0

    async def open(self, headers: dict[str, str]) -> None:
        """Send the status 200 and the headers."""
        more = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *more]}
        )

    async def write(self, body: dict[str, Any], event_id: str = "", name: str = "") -> None:
        """Send an event, with its id and name if it has them; a slow reader delays the next one."""
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        head = f"event: {name}\n" if name else ""
        head += f"id: {event_id}\n" if event_id else ""
        await self._write(f"{head}data: {text}\n\n")

    @contextlib.asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Send comments, which clients skip, while nothing else is sent."""
        task = asyncio.create_task(self._keep_alive())
        try:
            yield
        finally:
            task.cancel()

    async def done(self) -> None:
        """Send the event after which OpenAI's clients expect no other."""
        await self._write("data: [DONE]\n\n")

    async def close(self) -> None:
        """End the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self) -> None:
        while True:
            before = self._num_writes
            await asyncio.sleep(KEEP_ALIVE_S)
            if self._num_writes == before:
                await self._write(": waiting\n\n")

    async def _write(self, text: str) -> None:
        self._num_writes += 1
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})
