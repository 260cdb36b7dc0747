"""Every wire is cut and every toy process lost at every moment, under eight streaming clients.

Engines and drafters are threads here, but all wires are real: gRPC over TCP, through relays. The
same with real processes is in tests/integration/generation/test_kill_matrix.py.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from cluster.deploy.supervisor import Supervision, Supervisor
from runtime.restarts import RestartLimits
from tests.support.integration.wires import Mode, Relay
from tests.support.serving import Serving
from tests.support.toy_deployment import ToyDeployment, ask, expected
from tests.support.waiting import wait_until

NUM_CLIENTS = 8
MAX_TOKENS = 48
CUT_S = 0.5
VICTIMS = ("engine", "drafter", "driver wire", "drafter wire", "client wire")
FAULTS = {"engine": ("kill",), "drafter": ("kill",)}
STATES = ("prefill", "drafting", "verifying", "idle")
QUICK = {
    ("engine", "kill", "verifying"),
    ("driver wire", "cut", "drafting"),
    ("client wire", "cut", "prefill"),
}
"""Those that are tried each time; the others are slow tests."""


@dataclass(frozen=True)
class Cell:
    victim: str
    fault: str
    state: str


CELLS = [
    pytest.param(
        Cell(victim, fault, state),
        id=f"{victim.replace(' ', '-')}-{fault}-{state}",
        marks=() if (victim, fault, state) in QUICK else pytest.mark.slow,
    )
    for victim in VICTIMS
    for fault in FAULTS.get(victim, ("cut", "lossy"))
    for state in STATES
]


@pytest.fixture
def deployment() -> Iterator[ToyDeployment]:
    made = ToyDeployment()
    yield made
    made.close()
    for rig in made.rigs:
        rig.close()


@pytest.fixture
def serving(deployment: ToyDeployment) -> Iterator[Serving]:
    made = Serving(links=[deployment.connect()], recovers=True)
    quick = Supervision(restarts=RestartLimits(most=9))
    gateway = made.gateway
    supervisor = Supervisor(deployment, gateway, supervision=quick)  # type: ignore[arg-type]
    supervisor.start()
    yield made
    supervisor.close()
    made.close()


@pytest.mark.parametrize("cell", CELLS)
def test_clients_get_every_token(deployment: ToyDeployment, serving: Serving, cell: Cell) -> None:
    host, port = serving.address.rsplit(":", 1)
    clients = Relay((host, int(port)))
    wires = {"driver wire": deployment.driver, "drafter wire": deployment.drafter}
    wire = wires.get(cell.victim, clients)
    wait_until(lambda: serving.gateway.status.drafters == 1, poll_s=0.0005)
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        running = []
        if cell.state != "idle":
            running = [pool.submit(ask, clients.address, n, MAX_TOKENS) for n in range(NUM_CLIENTS)]
        wait_until(lambda: deployment.state == cell.state, poll_s=0.0005)
        strike(deployment, cell, wire)
        running = running or [
            pool.submit(ask, clients.address, n, MAX_TOKENS) for n in range(NUM_CLIENTS)
        ]
        found = [future.result(timeout=90) for future in running]
    assert found == [expected(number, MAX_TOKENS) for number in range(NUM_CLIENTS)]
    assert deployment.num_restarts == (cell.victim == "engine")
    clients.close()


def strike(deployment: ToyDeployment, cell: Cell, wire: Relay) -> None:
    if cell.victim == "engine":
        deployment.kill_engine()
    elif cell.victim == "drafter":
        deployment.kill_drafter()
    elif cell.fault == "lossy":
        wire.mode = Mode.LOSSY
    else:
        wire.cut()
        time.sleep(CUT_S)
        wire.mode = Mode.PASS
