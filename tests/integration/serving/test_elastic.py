"""Drafters and replicas in processes of their own: 1 -> 4 -> 0 -> 2 drafters under load."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.client import Client, ServiceError
from tests.support.integration.chaos import NUM_CLIENTS, ChaosServer, generate, start_clients
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.waiting import wait_until

SHORT, LONG = 40, 100
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def served(checkpoint: Path) -> Iterator[ChaosServer]:
    """A drafter's step takes longer for more requests, so that more drafters are worth having."""
    options = ("--drafter", str(checkpoint), "--set", "max_drafters=4", "--mode", "pearl")
    server = ChaosServer(checkpoint, options, target_ms=30, draft_ms=2, row_ms=3, wired=False)
    yield server
    server.close()


class Load:
    """Clients that ask again and again, and compare."""

    def __init__(self, served: ChaosServer) -> None:
        self._address = served.address
        self._stopping = threading.Event()
        self.num_answers = 0
        self._pool = ThreadPoolExecutor(NUM_CLIENTS)
        self.alone = list(self._pool.map(self._generate, range(NUM_CLIENTS)))
        self._running = [self._pool.submit(self._ask, n) for n in range(NUM_CLIENTS)]

    def stop(self) -> None:
        """Wait for all clients; fail if any answer differs."""
        self._stopping.set()
        for future in self._running:
            future.result(timeout=120)
        self._pool.shutdown()

    def _generate(self, number: int) -> list[int]:
        return generate(self._address, number, LONG)

    def _ask(self, number: int) -> None:
        while not self._stopping.is_set():
            assert self._generate(number) == self.alone[number]
            self.num_answers += 1


def test_drafters_come_and_go_under_load(
    served: ChaosServer, capsys: pytest.CaptureFixture[str]
) -> None:
    load = Load(served)
    rates: list[str] = []
    with Client(served.address) as client:
        for count in (1, 4, 0, 2):
            assert client.set_drafters(count) == count
            wait_until(lambda: client.status().engine.drafters == count)  # noqa: B023
            rates.append(f"{count}: {tokens_per_second(client):.0f}")
        load.stop()
        assert load.num_answers >= NUM_CLIENTS
        assert client.status().engine.drafter_losses == 0
        with pytest.raises(ServiceError, match="`num_drafters` is 5"):
            client.set_drafters(5)
    with capsys.disabled():
        print(f"\ntokens a second by number of drafters: {', '.join(rates)}")


def tokens_per_second(client: Client, seconds: float = 3.0) -> float:
    time.sleep(1.1)  # the status is a second old at most
    before, start_s = client.status().engine.tokens, time.monotonic()
    time.sleep(seconds)
    return (client.status().engine.tokens - before) / (time.monotonic() - start_s)


def test_a_killed_drafter_of_several_is_replaced(served: ChaosServer) -> None:
    with Client(served.address) as client, ThreadPoolExecutor(NUM_CLIENTS) as pool:
        client.set_drafters(2)
        alone = [generate(served.address, n, SHORT) for n in range(NUM_CLIENTS)]
        running = start_clients(pool, served.address, SHORT)
        losses = client.status().engine.drafter_losses
        served.strike(rank="drafter rank 0", state="verifying", signal=int(signal.SIGKILL))
        assert [future.result(timeout=120) for future in running] == alone
        wait_until(lambda: client.status().engine.drafter_losses > losses)
        wait_until(lambda: client.status().engine.drafters == 2)


def test_a_killed_replicas_requests_go_to_the_other(checkpoint: Path) -> None:
    options = ("--replicas", "2", "--drafter", "ngram", "--set", "restarts=20")
    served = ChaosServer(checkpoint, options, target_ms=20, wired=False)
    try:
        with Client(served.address) as client, ThreadPoolExecutor(NUM_CLIENTS) as pool:
            alone = [generate(served.address, n, LONG) for n in range(NUM_CLIENTS)]
            running = start_clients(pool, served.address, LONG)
            wait_until(lambda: all(r.open_requests > 0 for r in client.status().replicas))
            victim = next(iter(client.status().replicas[1].ranks)).pid
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: client.status().replicas[1].state == "lost")
            assert client.status().replicas[0].open_requests > 0
            assert [future.result(timeout=120) for future in running] == alone
            wait_until(lambda: client.status().replicas[1].state == "serving")
            assert client.status().replicas[1].restarts == 1
    finally:
        served.close()
