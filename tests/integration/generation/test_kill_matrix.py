"""Every role is killed, stopped and cut off at every moment, under eight streaming clients.

All clients get exactly the tokens of an undisturbed server; how long they had to wait is printed.
"""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from runtime.client import Client, ServiceError
from tests.support.integration.chaos import (
    NUM_CLIENTS,
    ChaosServer,
    await_end,
    generate,
    is_alive,
    kill,
    prompt_of,
    start_clients,
)
from tests.support.integration.wires import Mode, Relay
from tests.support.models import check_identity
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.waiting import wait_until

MAX_TOKENS = 60
STOP_S = 20.0
CUT_S = 3.0
STATUS_S = 1.5
"""The greatest age of the server's report about its engine."""
SERVE = "serve"
ROLES = ("target rank 0", "target rank 1", "drafter rank 0", SERVE)
FAULTS = ("kill", "stop", "cut", "lossy")
STATES = ("prefill", "drafting", "verifying", "idle")


@dataclass(frozen=True)
class Cell:
    role: str
    fault: str
    state: str

    @property
    def crosses_a_wire(self) -> bool:
        """Ranks of one target share memory where they share a host: no wire to cut."""
        return not (self.role == "target rank 1" and self.fault in ("cut", "lossy"))


CELLS = [
    pytest.param(
        Cell(role, fault, state),
        id=f"{role.replace(' ', '-')}-{fault}-{state}",
        marks=pytest.mark.slow,
    )
    for role in ROLES
    for fault in FAULTS
    for state in STATES
    if Cell(role, fault, state).crosses_a_wire
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosServer]:
    journal = tmp_path_factory.mktemp("journal")
    options = ("--tp", "2", "--drafter", str(checkpoint), "--journal", str(journal))
    limits = ("--set=step_limit_s=8", "--set=restarts=500", "--set=models.draft_wait_s=0.3")
    server = ChaosServer(checkpoint, (*options, *limits))
    yield server
    server.close()


@pytest.fixture(scope="module")
def alone(served: ChaosServer, checkpoint: Path) -> list[list[int]]:
    """What each client gets from an undisturbed server, once compared with transformers."""
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        running = start_clients(pool, served.address, MAX_TOKENS)
        found = [future.result(timeout=120) for future in running]
    for number in range(1, NUM_CLIENTS, 2):  # the greedy ones
        check_identity(checkpoint, tuple(prompt_of(number)), tuple(found[number]))
    return found


class Waits:
    """The longest time that any client had to wait for tokens."""

    def __init__(self) -> None:
        self._last_s = [time.monotonic()] * NUM_CLIENTS
        self.longest_s = 0.0

    def note(self, number: int) -> None:
        now_s = time.monotonic()
        self.longest_s = max(self.longest_s, now_s - self._last_s[number])
        self._last_s[number] = now_s


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", CELLS)
def test_clients_get_every_token(
    served: ChaosServer, alone: list[list[int]], cell: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_until(lambda: is_whole(served), 120)
    before = served.family()
    waits = Waits()

    def ask(number: int) -> list[int]:
        return generate(served.address, number, MAX_TOKENS, lambda _: waits.note(number))

    with ThreadPoolExecutor(NUM_CLIENTS + 1) as pool:
        if cell.state == "idle":
            seen = strike(served, cell)
            running = [pool.submit(ask, number) for number in range(NUM_CLIENTS)]
        else:
            striking = pool.submit(strike, served, cell)
            running = [pool.submit(ask, number) for number in range(NUM_CLIENTS)]
            seen = striking.result(timeout=250)
        found = [future.result(timeout=350) for future in running]
    heal(served)
    assert seen == cell.state
    assert found == alone
    wait_until(lambda: not is_any_rank_stopped(served), 60)
    time.sleep(STATUS_S)
    wait_until(lambda: is_whole(served), 120)
    survivors = {process.pid for process in served.family()}
    await_end([process for process in before if process.pid not in survivors])
    with capsys.disabled():
        print(f"\n{cell.role}, {cell.fault}, {cell.state}: longest wait {waits.longest_s:.1f} s")


def strike(served: ChaosServer, cell: Cell) -> str:
    """Do the cell's fault at its moment; return the leader's state then."""
    if cell.fault in ("kill", "stop") and cell.role != SERVE:
        number = signal.SIGKILL if cell.fault == "kill" else signal.SIGSTOP
        told = served.strike(rank=cell.role, state=cell.state, signal=int(number), seconds=STOP_S)
        return str(told["state"])
    state = str(served.strike(state=cell.state)["state"])
    if cell.fault == "kill":
        kill_server(served)
    elif cell.fault == "stop":
        pause_server(served)
    else:
        wire = wire_of(served, cell.role)
        if cell.fault == "lossy":
            wire.mode = Mode.LOSSY
        else:
            wire.cut()
            time.sleep(CUT_S)
            wire.mode = Mode.PASS
    return state


def wire_of(served: ChaosServer, role: str) -> Relay:
    wires = {"target rank 0": served.driver, "drafter rank 0": served.drafter}
    return wires.get(role, served.clients)


def kill_server(served: ChaosServer) -> None:
    """Kill the server; all it started ends with it. Then it is started again."""
    family = served.family()
    kill(served.process.pid)
    await_end(family)
    served.start_again()


def pause_server(served: ChaosServer) -> None:
    process = psutil.Process(served.process.pid)
    process.suspend()
    time.sleep(STOP_S)
    assert is_alive(process)
    process.resume()


def heal(served: ChaosServer) -> None:
    for wire in (served.clients, served.driver, served.drafter):
        wire.mode = Mode.PASS


def is_any_rank_stopped(served: ChaosServer) -> bool:
    """Return whether a stopped rank still waits for its end, or to be woken up."""
    for process in served.family():
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_STOPPED:
                return True
    return False


def is_whole(served: ChaosServer) -> bool:
    try:
        with Client(served.address) as client:
            (replica,) = client.status().replicas
    except ServiceError:  # it is restarted
        return False
    idle = replica.engine.running == 0 and replica.step_age_s < 5
    return replica.state == "serving" and replica.engine.drafters == 1 and idle
