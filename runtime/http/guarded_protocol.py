"""uvicorn's HTTP/1.1 protocol with limits on the time and the number of connections."""

import asyncio
import contextlib
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 512
HEAD_S = 15.0
"""A connection whose request line and headers do not arrive within this time is closed."""
STALL_S = 60.0
"""A connection whose client reads nothing for this long, while much is waiting, is cut."""
_SEND_BUFFER_BYTES = 256 * 1024
"""Memory that the system holds for a client that does not read; by itself it takes megabytes."""
_VANISHED = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_UNACKNOWLEDGED_MS = 60_000


class GuardedProtocol(H11Protocol):
    """Closes connections that are silent, stalled, vanished or too many."""

    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or cut it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        _set_options(transport.get_extra_info("socket"))
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Read bytes; the time for a request's head starts with its first byte."""
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the timers."""
        self._drop_head()
        self._drop_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start to wait for a client that reads too slowly."""
        super().pause_writing()
        self._drop_stall()
        self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue to write."""
        self._drop_stall()
        super().resume_writing()

    def _await_head(self) -> None:
        """Start the time of a head, or end it once the head has arrived."""
        if self.conn.their_state is not h11.IDLE:
            self._drop_head()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_S, self._end_silence)

    def _drop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _drop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _end_silence(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.abort()


def _set_options(connection: Any) -> None:
    """Bound what the system buffers, and make it end connections whose client has vanished."""
    with contextlib.suppress(OSError):  # of another family
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _VANISHED:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
