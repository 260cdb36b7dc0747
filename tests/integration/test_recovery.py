"""`paceline serve` loses its ranks under load: clients see a pause, and every right token."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from protos.paceline.v1 import service_pb2 as pb
from runtime.service.client import Client
from tests.integration.serving_process import ServingProcess
from tests.models import check_identity
from tests.tiny_checkpoint import save_tiny_checkpoint

NUM_CLIENTS = 8
LENGTH = 300


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def served(checkpoint: Path) -> Iterator[ServingProcess]:
    options = ("--tp", "2", "--drafter", str(checkpoint), "--step-limit", "6", "--restarts", "20")
    process = ServingProcess(checkpoint, options)
    yield process
    process.close()


@pytest.fixture(scope="module")
def alone(served: ServingProcess, checkpoint: Path) -> list[list[int]]:
    """What an undisturbed server says, once compared with transformers."""
    with Client(served.address) as client:
        found = [generate(client, number) for number in range(NUM_CLIENTS)]
    check_identity(checkpoint, prompt_of(0), tuple(found[0][:64]))
    return found


def prompt_of(number: int) -> tuple[int, ...]:
    return (*([5, 6, 7, 8] * 4), number, 9)


def generate(client: Client, number: int) -> list[int]:
    tokens: list[int] = []
    ends = 0
    for chunk in client.generate(
        prompt_of(number), max_tokens=LENGTH, mode="auto", max_attempts=500, timeout_s=120
    ):
        tokens += chunk.token_ids
        ends += chunk.finish_reason is not None
    assert ends == 1
    return tokens


def replica(served: ServingProcess) -> pb.ReplicaStatus:
    with Client(served.address) as client:
        return client.status().replicas[0]


def pid_of(served: ServingProcess, name: str) -> int:
    wait_until(lambda: any(rank.name == name for rank in replica(served).ranks))
    return next(rank.pid for rank in replica(served).ranks if rank.name == name)


def wait_until(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def start_clients(pool: ThreadPoolExecutor, address: str) -> list[Future[list[int]]]:
    def ask(number: int) -> list[int]:
        with Client(address) as client:
            return generate(client, number)

    return [pool.submit(ask, number) for number in range(NUM_CLIENTS)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("target rank 0", signal.SIGKILL),
        ("target rank 1", signal.SIGKILL),
        ("target rank 0", signal.SIGSTOP),
        ("drafter rank 0", signal.SIGKILL),
    ],
)
def test_a_lost_rank_costs_a_pause_and_no_token(
    served: ServingProcess, alone: list[list[int]], name: str, kind: signal.Signals
) -> None:
    before = replica(served)
    victim = pid_of(served, name)
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        running = start_clients(pool, served.address)
        wait_until(lambda: replica(served).open_requests == NUM_CLIENTS)
        os.kill(victim, kind)
        found = [future.result(timeout=180) for future in running]
    assert found == alone
    after = replica(served)
    if name.startswith("target"):
        assert after.restarts == before.restarts + 1
    else:
        assert after.restarts == before.restarts
        wait_until(lambda: replica(served).engine.drafters == 1)
        assert replica(served).engine.drafter_losses > 0
    assert after.open_requests == 0
    wait_until(lambda: not psutil.pid_exists(victim))
    assert pid_of(served, name) != victim
