"""A server's TLS files and address, rejected by name before gRPC sees them."""

import asyncio
import socket
from pathlib import Path

import grpc
import pytest

from runtime.channels.listening import listen, server_credentials
from runtime.errors import ConfigError
from tests.support.certificates import make_certificates


def test_no_files_mean_plaintext() -> None:
    assert server_credentials(None, None, None) is None


def test_a_client_authority_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="client_ca needs certificate: give both"):
        server_credentials(None, None, tmp_path / "authority.pem")


def test_files_that_fit_make_credentials(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    pair = made / "server.pem", made / "server.key"
    assert server_credentials(*pair, None) is not None
    assert server_credentials(*pair, made / "authority.pem") is not None
    with pytest.raises(ConfigError, match=r"client_ca .*missing\.pem does not exist"):
        server_credentials(*pair, made / "missing.pem")


def test_a_server_returns_the_port_it_got() -> None:
    async def bind() -> str:
        server = grpc.aio.server()
        try:
            return listen(server, "127.0.0.1:0", None)
        finally:
            await server.stop(None)

    host, _, port = asyncio.run(bind()).rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_a_taken_address_is_named_with_its_field() -> None:
    async def bind(address: str) -> None:
        server = grpc.aio.server()
        try:
            listen(server, address, None, "metrics")
        finally:
            await server.stop(None)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"metrics.* {address}|metrics is '{address}'"):
            asyncio.run(bind(address))
