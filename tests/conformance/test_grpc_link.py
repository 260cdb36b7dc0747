"""What only links over gRPC must do: tokens, garbage, limits, ports and statuses."""

import queue
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from parallel.messages import (
    Hello,
)
from runtime.errors import (
    ConfigError,
    PeerError,
    PeerLost,
    PeerTimeout,
    ProtocolError,
)
from runtime.links.grpc_link import SERVICE, STATUS_ERRORS, GrpcLinkServer, connect_grpc
from runtime.links.link import Link
from runtime.links.link_timing import answer_pings, measure_round_trips
from tests.support.waiting import threads_left_over

TOKEN = "a-token"
HELLO = Hello(role="drafter", name="d0", vocab_size=512, capacity=4)
WAIT_S = 10.0


@pytest.fixture
def server() -> Iterator[GrpcLinkServer]:
    before = set(threading.enumerate())
    server = GrpcLinkServer(
        "127.0.0.1",
        token=TOKEN,
        on_link=lambda _hello, link: answer_pings(link),
        max_links=4,
        hello_timeout_s=0.3,
    )
    yield server
    server.close()
    assert threads_left_over(before) == []


def connect(server: GrpcLinkServer) -> Link:
    return connect_grpc(server.address, token=TOKEN, hello=HELLO, timeout_s=WAIT_S)


def raw_call(server: GrpcLinkServer, frames: list[bytes], token: str | None = TOKEN) -> str:
    """Send bytes as they are and return the name of the status the stream ends with."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    hold = threading.Event()

    def requests() -> Iterator[bytes]:
        yield from frames
        hold.wait(WAIT_S)

    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(f"/{SERVICE}/Connect", None, None)(
            requests(), metadata=metadata, timeout=WAIT_S
        )
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            return str(error.code().name)
        finally:
            hold.set()
    return "OK"


@pytest.mark.parametrize("token", ["", "b-token", "a-token "])
def test_a_wrong_token_is_rejected(server: GrpcLinkServer, token: str) -> None:
    with pytest.raises(ConfigError, match="bearer token"):
        connect_grpc(server.address, token=token, hello=HELLO, timeout_s=WAIT_S)


def test_no_token_is_rejected(server: GrpcLinkServer) -> None:
    assert raw_call(server, [], token=None) == "UNAUTHENTICATED"


@pytest.mark.parametrize("frames", [[b"\xff\xff"], [b""], []])
def test_garbage_or_silence_ends_its_own_stream_only(
    server: GrpcLinkServer, frames: list[bytes]
) -> None:
    link = connect(server)
    assert raw_call(server, frames) == "INVALID_ARGUMENT"
    assert measure_round_trips(link, 5).count == 5
    link.close()


def test_bytes_that_are_not_http2_do_not_disturb_a_link(server: GrpcLinkServer) -> None:
    link = connect(server)
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 64)
        assert measure_round_trips(link, 5).count == 5
    link.close()


def test_a_link_that_breaks_the_contract_later_is_closed() -> None:
    taken: queue.Queue[Link] = queue.Queue()
    strict = GrpcLinkServer("127.0.0.1", token=TOKEN, on_link=lambda _hello, link: taken.put(link))
    hello = b"\x0a\x06\x0a\x04\x08\x02\x12\x00"
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(raw_call, strict, [hello, b"\xff"])
        link = taken.get(timeout=WAIT_S)
        with pytest.raises(ProtocolError):
            link.recv(WAIT_S)
        call.result(timeout=WAIT_S)
    strict.close()


def test_more_links_than_allowed_are_rejected(server: GrpcLinkServer) -> None:
    links = [connect(server) for _ in range(4)]
    with pytest.raises(PeerError, match="resource_exhausted"):
        connect(server)
    for link in links:
        link.close()


def test_a_link_that_closes_makes_room_for_another(server: GrpcLinkServer) -> None:
    for _ in range(8):
        link = connect(server)
        assert measure_round_trips(link, 2).count == 2
        link.close()


def test_a_port_without_a_listener_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PeerTimeout, match="did not accept"):
        connect_grpc(f"127.0.0.1:{port}", token=TOKEN, hello=HELLO, timeout_s=0.3)


def test_a_server_that_starts_late_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(
            connect_grpc, f"127.0.0.1:{port}", token=TOKEN, hello=HELLO, timeout_s=WAIT_S
        )
        time.sleep(0.3)
        server = GrpcLinkServer(
            "127.0.0.1", port, token=TOKEN, on_link=lambda _hello, link: answer_pings(link)
        )
        link = connecting.result()
    assert measure_round_trips(link, 3).count == 3
    link.close()
    server.close()


def test_closing_the_server_wakes_its_clients(server: GrpcLinkServer) -> None:
    link = connect(server)
    server.close()
    with pytest.raises(PeerLost):
        link.recv(WAIT_S)
    link.close()


def test_a_taken_port_is_a_configuration_error(server: GrpcLinkServer) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        GrpcLinkServer(
            "127.0.0.1", server.port, token=TOKEN, on_link=lambda _hello, link: link.close()
        )


def test_statuses_that_are_not_a_lost_peer_are_in_the_table() -> None:
    assert set(STATUS_ERRORS) <= set(grpc.StatusCode)
    assert STATUS_ERRORS[grpc.StatusCode.UNAUTHENTICATED] is ConfigError
    assert grpc.StatusCode.UNAVAILABLE not in STATUS_ERRORS
