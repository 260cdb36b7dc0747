"""Half an hour of random kills under load: no answer is wrong, none is lost, memory stays flat.

`PACELINE_SOAK_S=600 pytest -m slow tests/integration/serving/test_soak.py -s` makes it ten minutes.
"""

import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.client import Client, ServiceError
from tests.support.integration.chaos import NUM_CLIENTS, ChaosServer, await_end, generate, kill
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.waiting import wait_until

SOAK_S = float(os.environ.get("PACELINE_SOAK_S", "1800"))
EVERY_S = 20.0
MAX_TOKENS = 40
NUM_PROMPTS = 24
LEAST_RATE = 2000 / 1800
"""Requests a second."""
VICTIMS = (
    *("target rank 0", "target rank 1", "drafter rank 0") * 3,
    "serve",
)
MEMORY_NOISE_BYTES = 150e6


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ChaosServer]:
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    options = ("--tp", "2", "--drafter", str(checkpoint), "--journal", str(tmp_path / "journal"))
    limits = ("--set=step_limit_s=8", "--set=restarts=10000")
    server = ChaosServer(checkpoint, (*options, *limits), target_ms=4, draft_ms=1, wired=False)
    yield server
    server.close()


class Load:
    """Clients that ask again and again."""

    def __init__(self, served: ChaosServer) -> None:
        self._served = served
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.expected = {n: generate(served.address, n, MAX_TOKENS) for n in range(NUM_PROMPTS)}
        self.outcomes: Counter[str] = Counter()
        self.longest_s = 0.0
        self._pool = ThreadPoolExecutor(NUM_CLIENTS)
        self._running = [self._pool.submit(self._ask, n) for n in range(NUM_CLIENTS)]

    def stop(self) -> None:
        self._stopping.set()
        for future in self._running:
            future.result(timeout=300)
        self._pool.shutdown()

    def _ask(self, client: int) -> None:
        draw = random.Random(client)
        while not self._stopping.is_set():
            number = draw.randrange(NUM_PROMPTS)
            start_s = time.monotonic()
            try:
                tokens = generate(self._served.address, number, MAX_TOKENS)
                outcome = "right" if tokens == self.expected[number] else "wrong"
            except Exception as error:
                outcome = f"lost: {error}"
            with self._lock:
                self.outcomes[outcome] += 1
                self.longest_s = max(self.longest_s, time.monotonic() - start_s)


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 900)
def test_half_an_hour_of_random_kills(served: ChaosServer) -> None:
    load = Load(served)
    draw = random.Random(0)
    memory: list[int] = []
    strikes: Counter[str] = Counter()
    shared = len(list(Path("/dev/shm").iterdir()))
    end_s = time.monotonic() + SOAK_S
    while time.monotonic() < end_s:
        next_s = time.monotonic() + EVERY_S
        wait_until(lambda: is_whole(served), 120)
        memory.append(served.memory_bytes())
        time.sleep(max(0.0, min(next_s, end_s) - time.monotonic()))
        victim = draw.choice(VICTIMS)
        strikes[victim] += 1
        strike(served, victim)
        done = load.outcomes.total()
        print(f"{end_s - time.monotonic():5.0f} s left, {victim} killed, {done} answers so far")
    load.stop()
    wait_until(lambda: is_whole(served), 120)
    print(f"strikes: {dict(strikes)}; answers: {dict(load.outcomes)}")
    print(f"longest answer {load.longest_s:.1f} s; memory {[round(m / 1e6) for m in memory]} MB")
    assert set(load.outcomes) == {"right"}
    assert load.outcomes["right"] >= LEAST_RATE * SOAK_S
    half = len(memory) // 2
    early, late = statistics.median(memory[1:half]), statistics.median(memory[half:])
    assert late - early < MEMORY_NOISE_BYTES
    assert len(list(Path("/dev/shm").iterdir())) < shared + 20


def strike(served: ChaosServer, victim: str) -> None:
    if victim == "serve":
        family = served.family()
        kill(served.process.pid)
        await_end(family)
        served.start_again()
        return
    served.strike(rank=victim, state="verifying", signal=int(signal.SIGKILL))


def is_whole(served: ChaosServer) -> bool:
    try:
        with Client(served.address) as client:
            (replica,) = client.status().replicas
    except ServiceError:  # it is restarted
        return False
    return replica.state == "serving" and replica.engine.drafters == 1
