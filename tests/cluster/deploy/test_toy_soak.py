"""Two thousand requests while engines, drafters and wires are lost: none is wrong, none is lost."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from cluster.deploy.supervisor import Supervision, Supervisor
from runtime.restarts import RestartLimits
from tests.support.integration.wires import Mode, Relay
from tests.support.serving import Serving
from tests.support.toy_deployment import ToyDeployment, ask, expected

NUM_CLIENTS = 8
NUM_REQUESTS = 2000
NUM_PROMPTS = 24
MAX_TOKENS = 8
EVERY_S = 1.5
MEMORY_BYTES = 120e6


class Load:
    """Clients that ask until enough is answered."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._expected = {n: expected(n, MAX_TOKENS) for n in range(NUM_PROMPTS)}
        self._lock = threading.Lock()
        self._left = NUM_REQUESTS
        self.outcomes: Counter[str] = Counter()

    def run(self, client: int) -> None:
        draw = random.Random(client)
        while self._take():
            number = draw.randrange(NUM_PROMPTS)
            try:
                right = ask(self._address, number, MAX_TOKENS) == self._expected[number]
                outcome = "right" if right else "wrong"
            except Exception as error:
                outcome = f"lost: {error}"
            with self._lock:
                self.outcomes[outcome] += 1

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_thousand_requests_survive_random_losses() -> None:
    deployment = ToyDeployment(forward_s=0.002)
    serving = Serving(links=[deployment.connect()], recovers=True)
    limits = Supervision(restarts=RestartLimits(most=10_000, calm_s=0.0))
    supervisor = Supervisor(deployment, serving.gateway, supervision=limits)  # type: ignore[arg-type]
    supervisor.start()
    host, port = serving.address.rsplit(":", 1)
    clients = Relay((host, int(port)))
    load, draw, strikes = Load(clients.address), random.Random(0), Counter[str]()
    memory = []
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        running = [pool.submit(load.run, n) for n in range(NUM_CLIENTS)]
        while not all(future.done() for future in running):
            time.sleep(EVERY_S)
            memory.append(psutil.Process().memory_info().rss)
            victim = draw.choice(
                ("engine", "drafter", "driver wire", "drafter wire", "client wire")
            )
            strikes[victim] += 1
            strike(deployment, clients, victim)
    supervisor.close()
    clients.close()
    serving.close()
    deployment.close()
    for rig in deployment.rigs:
        rig.close()
    print(f"strikes {dict(strikes)}, answers {dict(load.outcomes)}, {len(memory) * EVERY_S:.0f} s")
    print(f"restarts {deployment.num_restarts}, memory {[round(m / 1e6) for m in memory]} MB")
    assert load.outcomes == {"right": NUM_REQUESTS}
    assert len(strikes) == 5
    assert memory[-1] - memory[len(memory) // 3] < MEMORY_BYTES


def strike(deployment: ToyDeployment, clients: Relay, victim: str) -> None:
    if victim == "engine":
        deployment.kill_engine()
    elif victim == "drafter":
        deployment.kill_drafter()
    else:
        wires = {"driver wire": deployment.driver, "drafter wire": deployment.drafter}
        wire = wires.get(victim, clients)
        wire.cut()
        time.sleep(0.2)
        wire.mode = Mode.PASS
