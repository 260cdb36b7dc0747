"""A `paceline serve` process under load and attack: no other client notices, nothing leaks."""

import contextlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.client import Client, Credentials, RequestStats, ServiceError
from tests.support.certificates import make_certificates
from tests.support.integration.serving_process import ROOT, ServingProcess
from tests.support.models import check_identity
from tests.support.serving import CutWire
from tests.support.tiny_checkpoint import VOCAB

NUM_CLIENTS = 64
MODES = ("autoregressive", "speculative", "pearl", "auto")
LEAVING = """
import sys
from runtime.client import Client
client = Client(sys.argv[1])
for chunk in client.generate("w1 w2 w3", max_tokens=480, request_id="left behind"):
    print("token", flush=True)
"""


@pytest.fixture
def client(tiny_server: ServingProcess) -> Iterator[Client]:
    with Client(tiny_server.address) as made:
        yield made


def prompt_of(number: int) -> list[int]:
    draw = random.Random(number)
    start = [5, 6, 7, 8] * 4 if number % 3 else []
    return [*start, *(draw.randrange(VOCAB) for _ in range(draw.randrange(2, 40)))]


def generate(
    client: Client, number: int, *, mode: str = "auto", max_tokens: int | None = None
) -> tuple[list[int], RequestStats]:
    tokens: list[int] = []
    stats, ends = RequestStats(), 0
    for chunk in client.generate(
        prompt_of(number),
        max_tokens=max_tokens or 40 + 5 * (number % 40),
        mode=mode,
    ):
        tokens += chunk.token_ids
        ends += chunk.finish_reason is not None
        stats = chunk.stats or stats
    assert ends == 1
    return tokens, stats


def wait_until_idle(client: Client, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while (now := client.status()).open_requests or now.engine.running or now.engine.pages_used:
        assert time.monotonic() < deadline, now
        time.sleep(0.2)


def test_64_clients_get_every_token_of_the_engine_alone(
    tiny_server: ServingProcess, client: Client, tiny_checkpoint: Path
) -> None:
    """All modes, mixed lengths, and more than the cache holds."""
    alone = [generate(client, n, mode="autoregressive")[0] for n in range(NUM_CLIENTS)]
    for number in range(0, NUM_CLIENTS, 16):
        check_identity(tiny_checkpoint, tuple(prompt_of(number)), tuple(alone[number]))
    before = client.status().engine

    def ask(number: int) -> tuple[list[int], RequestStats]:
        with Client(tiny_server.address) as own:
            return generate(own, number, mode=MODES[number % 4])

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        found = list(pool.map(ask, range(NUM_CLIENTS)))
    for number, (tokens, stats) in enumerate(found):
        assert tokens == alone[number]
        assert stats.drafted == 0 or MODES[number % 4] != "autoregressive"
    assert sum(stats.drafted for _, stats in found) > 0
    assert sum(stats.accepted for _, stats in found) > 0
    wait_until_idle(client)
    after = client.status().engine
    assert after.preemptions > before.preemptions
    assert sum(stats.preemptions for _, stats in found) > 0
    assert after.prefix_hit_tokens > before.prefix_hit_tokens


def test_streams_cut_at_random_bytes_200_times_lose_nothing(
    tiny_server: ServingProcess, client: Client
) -> None:
    wires = [CutWire(tiny_server.address, seed=seed, most=2000) for seed in range(8)]

    def ask(wire: CutWire) -> None:
        with Client(wire.address) as cut:
            for number in range(100):
                if sum(each.num_cuts for each in wires) >= 200:
                    return
                assert generate(cut, number % 5, max_tokens=120)[0] == alone[number % 5]

    alone = [generate(client, number, max_tokens=120)[0] for number in range(5)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, wires))
    for wire in wires:
        wire.close()
    assert sum(wire.num_cuts for wire in wires) >= 200


def test_garbage_on_1000_connections_disturbs_no_client(
    tiny_server: ServingProcess, client: Client
) -> None:
    alone = generate(client, 1)[0]
    host, port = tiny_server.address.rsplit(":", 1)
    draw = random.Random(0)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    held: list[socket.socket] = []
    for number in range(1000):
        garbage = draw.randbytes(draw.randrange(1, 2000))
        connection = socket.create_connection((host, int(port)), timeout=10)
        with contextlib.suppress(OSError):  # it was thrown out already
            connection.sendall((preface if number % 3 == 0 else b"") + garbage)
        if number % 10 == 0:
            held.append(connection)  # some send nothing more, and stay
        else:
            connection.close()
        if number % 250 == 0:
            assert generate(client, 1)[0] == alone
    assert generate(client, 1)[0] == alone
    for connection in held:
        connection.close()


def test_readers_that_do_not_read_cost_little_and_delay_no_client(
    tiny_server: ServingProcess, client: Client
) -> None:
    alone = generate(client, 1)[0]
    before = tiny_server.memory_bytes()
    with grpc.insecure_channel(tiny_server.address) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)
        streams = [
            stub.Generate(
                pb.GenerateRequest(
                    token_ids=pb.TokenIds(ids=prompt_of(n)), max_tokens=400, logprobs=20
                )
            )
            for n in range(24)
        ]
        for stream in streams:
            next(stream)  # accepted, and then not read any further
        assert generate(client, 1)[0] == alone
        assert tiny_server.memory_bytes() - before < 200e6
        late = [token for event in streams[0] for token in event.tokens.token_ids]
        assert len(late) == 400
        for stream in streams:
            stream.cancel()
    wait_until_idle(client)


def test_a_client_process_that_is_killed_leaves_nothing_behind(
    tiny_server: ServingProcess, client: Client
) -> None:
    leaving = subprocess.Popen(
        [sys.executable, "-c", LEAVING, tiny_server.address], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert leaving.stdout is not None
    assert leaving.stdout.readline() == b"token\n"
    leaving.kill()
    leaving.wait(timeout=10)
    leaving.stdout.close()
    deadline = time.monotonic() + 60
    while client.status().open_requests:  # named: it may come again within the grace time
        assert time.monotonic() < deadline
        time.sleep(0.5)
    wait_until_idle(client)


@pytest.mark.parametrize("busy", [False, True], ids=["running", "queued"])
def test_a_deadline_frees_what_it_held(
    tiny_server: ServingProcess, client: Client, *, busy: bool
) -> None:
    with Client(tiny_server.address) as other:
        streams = [other.generate([1, n], max_tokens=480) for n in range(40 if busy else 0)]
        for stream in streams:
            next(stream)
            if len(streams) > 32:
                break
        with pytest.raises(ServiceError, match="DEADLINE_EXCEEDED"):
            list(client.generate([9, 9], max_tokens=500, timeout_s=0.05))
    wait_until_idle(client)


def test_health_and_rejections_of_a_process(tiny_server: ServingProcess, client: Client) -> None:
    with grpc.insecure_channel(tiny_server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "paceline.v1.GenerationService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(ServiceError, match="token_ids has 600 tokens, and at most"):
        list(client.generate([1] * 600))


def test_drafters_change_while_requests_run(client: Client) -> None:
    alone = [generate(client, n, max_tokens=200)[0] for n in range(6)]
    before = client.model().drafter
    with ThreadPoolExecutor(6) as pool:
        running = [
            pool.submit(generate, client, n, mode="speculative", max_tokens=200) for n in range(6)
        ]
        assert client.set_drafter(None) == ""
        assert client.set_drafter("ngram") == "ngram"
        assert client.set_drafter("") == before
        with pytest.raises(ServiceError, match="model directory nothing does not exist"):
            client.set_drafter("nothing")
        assert [future.result(timeout=60)[0] for future in running] == alone
    assert client.model().drafter == before
    assert generate(client, 0, mode="speculative")[1].drafted > 0


def test_a_process_accepts_only_clients_with_certificate_and_token(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = make_certificates(tmp_path)
    (folder / "tokens").write_text("good\n")
    options = ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key")]
    options += ["--set", f"client_ca={folder / 'authority.pem'}"]
    process = ServingProcess(tiny_checkpoint, [*options, "--token-file", str(folder / "tokens")])
    try:
        for name, token, code in (
            ("client", "good", ""),
            ("client", "wrong", "UNAUTHENTICATED"),
            ("client", None, "UNAUTHENTICATED"),
            ("stranger", "good", "UNAVAILABLE"),
        ):
            credentials = Credentials(
                token=token,
                root_ca=folder / "authority.pem",
                certificate=folder / f"{name}.pem",
                private_key=folder / f"{name}.key",
            )
            with Client(process.address, credentials=credentials) as client:
                assert code_of(client) == code, name
        with Client(process.address, token="good") as client:  # plaintext
            assert code_of(client) == "UNAVAILABLE"
    finally:
        process.close()


def code_of(client: Client) -> str:
    try:
        list(client.generate("w1 w2", max_tokens=2, patience_s=0, timeout_s=10))
    except ServiceError as error:
        return error.code
    return ""


def test_a_cancelled_request_of_a_process_ends_and_frees_its_cache(client: Client) -> None:
    stream = client.generate([3, 3], max_tokens=500, request_id="to be cancelled")
    next(stream)
    assert client.cancel("to be cancelled")
    *_, last = stream
    assert last.finish_reason == "cancelled"
    assert not client.cancel("to be cancelled")
    wait_until_idle(client, seconds=5)


def stopped_by(action: Callable[[ServingProcess, Client], None], tiny_checkpoint: Path) -> None:
    process = ServingProcess(tiny_checkpoint)
    try:
        with Client(process.address) as client, ThreadPoolExecutor(12) as pool:
            alone = [generate(client, n, max_tokens=300)[0] for n in range(12)]
            running = [pool.submit(generate, client, n, max_tokens=300) for n in range(12)]
            while client.status().engine.running < 4:
                time.sleep(0.01)
            action(process, client)
            assert [future.result(timeout=60)[0] for future in running] == alone
            assert process.process.wait(timeout=60) == 0
            with pytest.raises(ServiceError, match="UNAVAILABLE"):
                list(client.generate("w1", patience_s=0))
    finally:
        process.close()


def test_sigterm_under_load_finishes_what_runs(tiny_checkpoint: Path) -> None:
    stopped_by(lambda process, _: process.process.terminate(), tiny_checkpoint)


@pytest.mark.slow  # what SIGTERM does too
def test_draining_under_load_finishes_what_runs(tiny_checkpoint: Path) -> None:
    stopped_by(lambda _, client: print(client.drain()), tiny_checkpoint)


@pytest.mark.slow  # a server of its own; tests/cluster/train/test_stopping.py has the parts
def test_a_second_interrupt_cuts_what_the_first_would_finish(tiny_checkpoint: Path) -> None:
    process = ServingProcess(tiny_checkpoint, ("--set", "drain_s=600"))
    try:
        with Client(process.address, patience_s=0) as client:
            stream = client.generate([1, 2], max_tokens=2000, ignore_eos=True)
            next(stream)
            process.process.send_signal(signal.SIGINT)
            while client.status().ready:
                time.sleep(0.01)
            process.process.send_signal(signal.SIGINT)
            with pytest.raises(ServiceError, match="UNAVAILABLE"):
                list(stream)
            assert process.process.wait(timeout=30) == 0
    finally:
        process.close()
