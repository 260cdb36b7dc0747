"""Thousands of malformed, slow, huge and idle HTTP clients: nothing crashes, memory stays bounded.

Meanwhile a gRPC client gets every token, again and again.
"""

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.client import Client
from tests.support.integration.serving_process import ServingProcess
from tests.support.tiny_checkpoint import save_tiny_checkpoint

PROMPT = [5, 6, 7, 8] * 4
NUM_REQUESTS = 5000
MEMORY_BYTES = 600e6
"""A body of 16 MiB takes up to 250 MB while it is parsed, and two are parsed at once."""
pytestmark = pytest.mark.slow

PATHS = st.sampled_from(
    ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/models", "/events"]
) | st.text(max_size=20).map(lambda text: f"/{text}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "prompt",
        "messages",
        "n",
        "stop",
        "seed",
        "logprobs",
        "stream",
        "temperature",
        "model",
        "mode",
    ]
)
BODIES = (
    st.dictionaries(FIELDS, JSON, max_size=5).map(lambda body: {"max_tokens": 2} | body)
    | st.dictionaries(FIELDS, JSON, max_size=3).map(lambda body: body | {"prompt": [1, 2]})
    | JSON
).map(lambda body: json.dumps(body).encode()) | st.binary(max_size=300)
HEADERS = st.sampled_from(
    [
        b"content-type: application/json",
        b"content-type: text/plain",
        b"transfer-encoding: chunked",
        b"content-length: -1",
        b"content-length: 5",
        b"content-length: 99999999999999999999",
        b"expect: 100-continue",
        b"connection: upgrade",
        b"last-event-id: 1,2,3",
        b"authorization: Bearer \xff",
        b": no name",
        b"no colon",
    ]
) | st.binary(max_size=40)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a request that is malformed in some way, or nearly well formed."""
    method = draw(st.sampled_from([b"POST", b"POST", b"GET", b"PUT", b""]) | st.binary(max_size=8))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9", b""]))
    body = draw(BODIES)
    lines = [b" ".join((method, draw(PATHS).encode("utf-8", "surrogatepass"), version))]
    lines += [b"host: x", *draw(st.lists(HEADERS, max_size=4))]
    if draw(st.booleans()):
        lines += [b"content-type: application/json", b"content-length: %d" % len(body)]
    data = bytearray(b"\r\n".join([*lines, b"", body]))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3)):
        data[at % len(data)] = byte
    return bytes(data)


class Served:
    """A server, and a gRPC client that asks it without a pause."""

    def __init__(self, server: ServingProcess) -> None:
        self.server = server
        found = re.search(r"HTTP on http://([\d.]+):(\d+)", server.ready)
        assert found, server.ready
        self.place = (found[1], int(found[2]))
        self.alone = self.generate()
        self._memory = server.memory_bytes()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._asking = self._pool.submit(self._ask)
        self.num_answers = 0

    def generate(self) -> list[int]:
        with Client(self.server.address) as client:
            chunks = list(client.generate(PROMPT, max_tokens=40, mode="speculative"))
        assert chunks[-1].stats is not None
        assert chunks[-1].stats.drafted > 0
        return [token for chunk in chunks for token in chunk.token_ids]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.place, timeout=60)

    def check(self) -> None:
        """Both wires answer, and the memory is bounded."""
        body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "return_token_ids": True}
        host, port = self.place
        url = f"http://{host}:{port}/v1/completions"
        answer = httpx.post(url, json=body, timeout=60).json()
        assert answer["choices"][0]["token_ids"] == self.alone
        before = self.num_answers
        assert self.generate() == self.alone
        assert self.server.process.poll() is None
        assert not self._asking.done() or self._asking.result() is None
        assert self.num_answers >= before
        assert self.server.memory_bytes() - self._memory < MEMORY_BYTES

    def stop(self) -> None:
        self._stopping.set()
        self._asking.result(timeout=120)
        self._pool.shutdown()

    def _ask(self) -> None:
        while not self._stopping.is_set():
            assert self.generate() == self.alone
            self.num_answers += 1


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    checkpoint = save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
    server = ServingProcess(checkpoint, ["--http=127.0.0.1:0", "--drafter=ngram"])
    made = Served(server)
    yield made
    made.stop()
    server.close()


def test_5000_malformed_requests_are_answered_or_cut(served: Served) -> None:
    statuses: dict[bytes, int] = {}

    @settings(
        max_examples=NUM_REQUESTS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def send(data: bytes) -> None:
        answer = b""
        with served.connect() as connection, contextlib.suppress(ConnectionError, TimeoutError):
            connection.settimeout(0.1)  # the rest of an unfinished request never comes
            connection.sendall(data)
            answer = connection.recv(4096)
        assert answer == b"" or re.match(rb"HTTP/1\.1 [1-5]\d\d ", answer)
        statuses[answer[9:12]] = statuses.get(answer[9:12], 0) + 1
        assert answer[9:12] != b"500", answer

    send()
    print(f"answers by status: {statuses}")
    assert len(statuses) > 4
    served.check()


def test_slow_clients_are_many_and_delay_no_other(served: Served) -> None:
    """Slow-loris: connections that send a byte now and then, below the limit of connections."""
    held = [served.connect() for _ in range(400)]
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for turn in range(8):
        for number, one in enumerate(held):
            if number % 4:
                with contextlib.suppress(OSError):
                    one.sendall(head[turn : turn + 1])
        assert served.generate() == served.alone
    served.check()
    for one in held:
        one.close()
    served.check()


def test_1000_connections_are_served_or_cut(served: Served) -> None:
    held = []
    for _ in range(1000):
        with contextlib.suppress(OSError):
            held.append(served.connect())
    assert served.generate() == served.alone
    for one in held:
        one.close()
    served.check()


@pytest.mark.parametrize("head", [b"content-length: 1073741824", b"transfer-encoding: chunked"])
def test_a_giant_body_is_not_kept(served: Served, head: bytes) -> None:
    start = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    block = b"[" * (1 << 20)
    if head.endswith(b"chunked"):
        block = b"100000\r\n" + block + b"\r\n"
    for _ in range(4):
        with served.connect() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(start + head + b"\r\n\r\n")
            for _ in range(256):
                connection.sendall(block)
    served.check()


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": ' + b"[" * 8_000_000,
        b'{"prompt": "' + b"w1 " * 5_000_000 + b'"}',
        b'{"prompt": [' + b"1," * 7_000_000 + b"1]}",
        b'{"prompt": ["' + b'a","' * 3_000_000 + b'"]}',
        b"{" + b'"a":1,' * 2_000_000 + b'"prompt":"a"}',
    ],
    ids=["nested", "text", "tokens", "prompts", "fields"],
)
def test_a_large_body_within_the_limit_is_rejected_and_freed(served: Served, body: bytes) -> None:
    host, port = served.place
    headers = {"content-type": "application/json"}
    url = f"http://{host}:{port}/v1/completions"
    for _ in range(4):
        answer = httpx.post(url, content=body, headers=headers, timeout=120)
        assert answer.status_code == 400
    served.check()
