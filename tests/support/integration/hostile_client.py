"""A client that does what none should, for a while: one thread for each kind of attack.

    python -m tests.support.integration.hostile_client ADDRESS TOKEN SECONDS

Prints how often it did each, as a line of JSON.
"""

import contextlib
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from tests.support.tiny_checkpoint import VOCAB

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PING = b"\0\0\x08\x06\0\0\0\0\0" + b"attack!!"
_PAUSE_S = 0.05  # between two attacks of a thread: a flood would measure the machine alone


class Attack:
    """What all threads share."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        host, port = address.rsplit(":", 1)
        self.endpoint = (host, int(port))
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.channel = grpc.insecure_channel(address)
        self.stub: Any = rpc.GenerationServiceStub(self.channel)
        self.counts: Counter[str] = Counter()

    def ask(self, request: pb.GenerateRequest, **options: Any) -> Any:
        """Start a request."""
        return self.stub.Generate(request, metadata=self.metadata, **options)


def a_prompt(draw: random.Random) -> pb.TokenIds:
    return pb.TokenIds(ids=[draw.randrange(VOCAB) for _ in range(draw.randrange(1, 60))])


def cancel_at_random(attack: Attack, draw: random.Random) -> str:
    """Leave before, at or after acceptance."""
    name = f"attack-{draw.random()}" if draw.random() < 0.3 else ""
    stream = attack.ask(
        pb.GenerateRequest(token_ids=a_prompt(draw), max_tokens=400, request_id=name)
    )
    for _ in range(draw.choice([0, 0, 1, 2, 5, 30])):
        next(stream, None)
    if name and draw.random() < 0.5:
        attack.stub.Cancel(pb.CancelRequest(request_id=name), metadata=attack.metadata, timeout=20)
    if draw.random() < 0.3:
        time.sleep(draw.random() * 0.1)
    stream.cancel()
    return "cancelled"


def send_giant_text(attack: Attack, draw: random.Random) -> str:
    """Send megabytes of words, or of one word."""
    text = draw.choice(["w1 " * (3 << 20), "w" * (10 << 20)])
    list(attack.ask(pb.GenerateRequest(text=text, max_tokens=4), timeout=60))
    return "a giant text was served"


def send_giant_prompt(attack: Attack, _: random.Random) -> str:
    """Send a million tokens."""
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1] * (1 << 20)), max_tokens=4)
    list(attack.ask(request, timeout=60))
    return "a giant prompt was served"


def send_stray_bytes(attack: Attack, draw: random.Random) -> str:
    """Send what is no HTTP/2, or begins as such."""
    with socket.create_connection(attack.endpoint, timeout=10) as connection:
        head = draw.choice([b"", PREFACE, PREFACE + SETTINGS, b"GET / HTTP/1.1\r\n"])
        connection.sendall(head + draw.randbytes(draw.randrange(1, 5000)))
        time.sleep(draw.random() * 0.05)
    return "stray bytes"


def flood_with_pings(attack: Attack, draw: random.Random) -> str:
    """Ping until the server closes the connection, or for 2,000 pings."""
    with socket.create_connection(attack.endpoint, timeout=10) as connection:
        connection.sendall(PREFACE + SETTINGS)
        for _ in range(20):
            connection.sendall(PING * 100)
            time.sleep(draw.random() * 0.01)
    return "pings"


def send_malformed_requests(attack: Attack, draw: random.Random) -> str:
    """Send random bytes as a request, or fields beyond their range."""
    if draw.random() < 0.5:
        path = "/paceline.v1.GenerationService/Generate"
        raw: Any = attack.channel.unary_stream(path, None, None)
        list(raw(draw.randbytes(200), metadata=attack.metadata, timeout=20))
    else:
        request = pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=[draw.randrange(2**32) for _ in range(9)]),
            max_tokens=draw.choice([0, 1, 2**32 - 1]),
            temperature=draw.choice([float("nan"), -1.0, 1e300, 1.0]),
            stop=["w1"] * draw.randrange(30),
        )
        list(attack.ask(request, timeout=20))
    return "malformed"


def be_impatient(attack: Attack, draw: random.Random) -> str:
    """Ask for more than the deadline allows."""
    request = pb.GenerateRequest(token_ids=a_prompt(draw), max_tokens=400)
    list(attack.ask(request, timeout=draw.choice([0.001, 0.01, 0.1])))
    return "impatient"


ATTACKS: tuple[Callable[[Attack, random.Random], str], ...] = (
    cancel_at_random,
    cancel_at_random,
    send_giant_prompt,
    send_giant_text,
    send_stray_bytes,
    flood_with_pings,
    send_malformed_requests,
    be_impatient,
)


def repeat(
    attack: Attack, what: Callable[[Attack, random.Random], str], seed: int, end_s: float
) -> None:
    """Attack until the time is over; errors are what the server is right to answer with."""
    draw = random.Random(seed)
    while time.monotonic() < end_s:
        try:
            outcome = what(attack, draw)
        except grpc.RpcError as error:
            outcome = f"{what.__name__}: {error.code().name}"
        except OSError as error:
            outcome = f"{what.__name__}: {type(error).__name__}"
        attack.counts[outcome] += 1
        time.sleep(_PAUSE_S)


def main(address: str, token: str, seconds: float) -> None:
    """Attack a server."""
    attack = Attack(address, token)
    end_s = time.monotonic() + seconds
    threads = [
        threading.Thread(target=repeat, args=(attack, what, seed, end_s))
        for seed, what in enumerate(ATTACKS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with contextlib.suppress(Exception):
        attack.channel.close()
    print(json.dumps(attack.counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
