"""Proxies: connections that stay on this machine, and those within a job, bypass them."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from runtime.channels.channel import open_channel, open_internal_channel
from runtime.channels.credentials import Credentials

Open = Callable[[str], grpc.Channel]


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A proxy in the environment that answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield listener


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(
    "opened", [lambda address: open_channel(address, Credentials()), open_internal_channel]
)
def test_a_proxy_does_not_stand_before_loopback(address: str, opened: Open) -> None:
    with opened(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=20)


def test_a_proxy_is_in_front_of_other_machines(proxy: socket.socket) -> None:
    heard: list[bytes] = []

    def accept() -> None:
        connection, _ = proxy.accept()
        with connection:
            heard.append(connection.recv(4096))

    thread = threading.Thread(target=accept)
    thread.start()
    with open_channel("192.0.2.1:50051", Credentials()) as channel:
        grpc.channel_ready_future(channel)
        thread.join()
    assert heard[0].startswith(b"CONNECT 192.0.2.1:50051 ")
