"""Silent, slow, huge, malformed and gone clients disturb no honest client of either wire."""

import contextlib
import json
import random
import resource
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from runtime.client import Client
from runtime.http import guarded_protocol
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving
from tests.support.waiting import wait_until

PROMPT = (1, 2, 3)
ALONE = expected_tokens(make_submit(prompt=PROMPT, max_tokens=24))
BODY = json.dumps({"prompt": PROMPT, "max_tokens": 300, "stream": True, "ignore_eos": True})
HEAD = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture
def connect(serving: Serving) -> Iterator[Callable[[], socket.socket]]:
    """Return a function that opens a raw connection; all are closed at the end."""
    host, port = serving.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection((host, int(port)), timeout=30))


def check_honest_clients(serving: Serving) -> None:
    """Both wires answer, with the right tokens, and nothing is left open."""
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "return_token_ids": True}
    answer = httpx.post(f"{serving.url}/v1/completions", json=body, timeout=30).json()
    assert answer["choices"][0]["token_ids"] == ALONE
    assert answer["usage"]["speculation"]["accepted_tokens"] > 0
    with Client(serving.address) as client:
        chunks = list(client.generate(PROMPT, max_tokens=24))
    assert [token for chunk in chunks for token in chunk.token_ids] == ALONE
    wait_until(lambda: serving.gateway.num_open == 0)


def num_connections(serving: Serving) -> int:
    assert serving.http is not None
    assert serving.http._server is not None
    return len(serving.http._server.server_state.connections)


def request(body: str = BODY) -> bytes:
    return f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode()


def test_half_a_request_is_cut_in_time_and_disturbs_nothing(
    serving: Serving, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "HEAD_S", 0.5)
    opened = [connect() for _ in range(20)]
    for number, one in enumerate(opened):
        one.sendall(HEAD.encode()[: 3 * number])  # the first sends nothing at all
    check_honest_clients(serving)
    for one in opened:
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(1) == b""
    wait_until(lambda: num_connections(serving) == 0)


def test_a_head_that_comes_byte_by_byte_has_the_time_of_one_head(
    serving: Serving, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "HEAD_S", 0.5)
    slow = connect()
    slow.settimeout(0.05)
    for byte in HEAD.encode() * 1000:
        try:
            slow.sendall(bytes((byte,)))
            assert slow.recv(1) == b""
        except TimeoutError:
            continue
        except ConnectionError:
            pass
        break
    wait_until(lambda: num_connections(serving) == 0)
    check_honest_clients(serving)


def test_a_body_that_never_comes_ends_with_its_connection(
    serving: Serving, connect: Callable[[], socket.socket]
) -> None:
    opened = [connect() for _ in range(10)]
    for one in opened:
        one.sendall(f"{HEAD}content-length: 1000\r\n\r\n{{".encode())
    check_honest_clients(serving)
    for one in opened:
        one.close()
    wait_until(lambda: num_connections(serving) == 0)


def test_a_client_that_disconnects_frees_its_request(
    serving: Serving, connect: Callable[[], socket.socket]
) -> None:
    opened = [connect() for _ in range(10)]
    for one in opened:
        one.sendall(request())
        assert one.recv(12) == b"HTTP/1.1 200"
    for number, one in enumerate(opened):
        if number % 2:  # a reset in place of an end
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.close()
    wait_until(lambda: serving.gateway.num_open == 0)
    check_honest_clients(serving)


def test_a_client_that_reads_nothing_delays_no_other_one(
    serving: Serving, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "STALL_S", 0.5)
    body = json.loads(BODY) | {"n": 6, "logprobs": 20, "temperature": 1}
    slow = connect()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(request(json.dumps(body)))
    wait_until(lambda: serving.gateway.metrics.num_finished > 0, timeout_s=60)
    check_honest_clients(serving)
    slow.settimeout(30)
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := slow.recv(1 << 20):
            got += part
    assert got.startswith(b"HTTP/1.1 200")
    assert b"[DONE]" not in got  # it was cut, not waited for
    wait_until(lambda: num_connections(serving) == 0)


@pytest.mark.parametrize("seed", range(3))
def test_bytes_at_random_and_mutated_requests_leave_the_server_sound(
    serving: Serving, connect: Callable[[], socket.socket], seed: int
) -> None:
    chooser = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(150):
        data = bytearray(request(json.dumps({"prompt": PROMPT, "max_tokens": 2})))
        for _ in range(chooser.randrange(1, 8)):
            data[chooser.randrange(len(data))] = chooser.randrange(256)
        if number % 5 == 0:
            data = bytearray(chooser.randbytes(200))
        with connect() as one:
            one.sendall(data)
            one.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                answer = one.recv(4096)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    check_honest_clients(serving)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_an_endless_header_is_rejected(
    serving: Serving, connect: Callable[[], socket.socket]
) -> None:
    one = connect()
    with contextlib.suppress(ConnectionError):
        one.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 10_000_000)
        assert one.recv(12) == b"HTTP/1.1 400"
    check_honest_clients(serving)


def test_connections_beyond_the_limit_are_cut(
    serving: Serving, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "MAX_CONNECTIONS", 20)
    opened = [connect() for _ in range(20)]
    wait_until(lambda: num_connections(serving) == 20)
    for _ in range(5):
        with contextlib.suppress(ConnectionResetError):
            assert connect().recv(1) == b""
    for one in opened:
        one.close()
    wait_until(lambda: num_connections(serving) == 0)
    check_honest_clients(serving)


def test_requests_in_a_row_on_one_connection_are_answered_in_order(
    rig: Rig, connect: Callable[[], socket.socket]
) -> None:
    bodies = [json.dumps({"prompt": PROMPT, "max_tokens": n, "temperature": 0}) for n in (3, 1, 2)]
    one = connect()
    one.sendall(b"".join(request(body) for body in bodies))
    data = b""
    while data.count(b"completion_tokens") < 3:
        data += one.recv(65536)
    order = [int(part[2]) - 48 for part in data.split(b"completion_tokens")[1:]]
    assert order == [3, 1, 2]
    assert not rig.errors
