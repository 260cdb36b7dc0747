"""The HTTP server: addresses, TLS, and its life beside the gRPC server on one event loop."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from runtime.channels.addresses import check_free, parse_address
from runtime.errors import ConfigError
from runtime.http.guarded_protocol import GuardedProtocol
from runtime.http.http_app import http_app
from runtime.requests.accepted_tokens import AcceptedTokens
from runtime.requests.admission import Admission
from runtime.requests.tracing import Tracing

_BACKLOG = 2048
_KEEP_ALIVE_S = 75
"""Longer than the pools of most clients keep a connection, so that none is closed under them."""
_CLOSE_S = 2
_START_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Address, credentials and limits of an HTTP server."""

    address: str
    tokens: AcceptedTokens
    certificate: Path | None = None
    """With its key, the server speaks HTTPS; both are checked before."""
    private_key: Path | None = None
    client_ca: Path | None = None
    """Clients must have a certificate of this authority."""
    origins: tuple[str, ...] = ()
    """Origins of browser pages that may call the server; "*" permits all."""
    max_body_bytes: int = 16 * 1024 * 1024


class HttpServer:
    """A listening server on one asyncio loop."""

    def __init__(
        self, admission: Admission, settings: HttpSettings, tracing: Tracing | None = None
    ) -> None:
        self._settings = settings
        self._app = http_app(
            admission,
            settings.tokens,
            origins=settings.origins,
            max_body_bytes=settings.max_body_bytes,
            tracing=tracing,
        )
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.address = settings.address
        """Where it listens; has the actual port once started."""

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"{'https' if self._settings.certificate else 'http'}://{self.address}"

    async def start(self) -> None:
        """Start to listen.

        Raises:
            ConfigError: the address cannot be used.
        """
        settings = self._settings
        sockets = _listen(settings.address)
        port = sockets[0].getsockname()[1]
        self.address = f"{settings.address.rpartition(':')[0]}:{port}"
        config = uvicorn.Config(
            self._app,
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.CRITICAL,  # what matters is in our own log
            access_log=False,
            proxy_headers=False,  # they would let a client choose its name
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CLOSE_S,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.private_key,
            ssl_ca_certs=settings.client_ca,
            ssl_cert_reqs=ssl.CERT_NONE if settings.client_ca is None else ssl.CERT_REQUIRED,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets))
        async with asyncio.timeout(_START_S):
            while not self._server.started and not self._serving.done():
                await asyncio.sleep(0.01)
        if self._serving.done():
            self._serving.result()

    async def stop(self) -> None:
        """Stop listening, and close the connections; cut those with unread answers."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


def _listen(address: str) -> list[socket.socket]:
    """Return listening sockets at HOST:PORT, one for each address of the host."""
    check_free(address, "`http`")
    host, port = parse_address(address, "`http`")
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    failures: list[OSError] = []
    for family, _, _, _, place in found:
        same_port = sockets[0].getsockname()[1] if sockets else port
        is_any = place[0] == "::" and socket.has_dualstack_ipv6()
        try:
            sockets.append(
                socket.create_server(
                    (str(place[0]), same_port),
                    family=family,
                    backlog=_BACKLOG,
                    dualstack_ipv6=is_any,
                )
            )
        except OSError as error:
            failures.append(error)
    if not sockets:
        raise ConfigError(f"`http` is {address!r}: {failures[0].strerror}") from failures[0]
    return sockets
