"""Every wire is cut and every toy process lost at every moment, under eight streaming clients.

Engines and drafters are threads here, but all wires are real: gRPC over TCP, through relays. The
same with real processes is in tests/integration/test_kill_matrix.py.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.restarts import RestartLimits
from cluster.supervisor import Supervision, Supervisor
from parallel.decoding.types import SamplingParams
from parallel.group import SoloGroup
from parallel.messages import Hello
from runtime.clock import MonotonicClock
from runtime.drafting import introduction, serve_drafts
from runtime.errors import PacelineError, PeerLost
from runtime.ledger import SlotLedger
from runtime.links.grpc_link import GrpcLinkServer, connect_grpc
from runtime.links.link import Link
from runtime.model_drafting import ModelDrafter
from runtime.service.client import Client
from runtime.shard import ShardRunner
from runtime.toy import PrefixShard
from tests.integration.wires import Mode, Relay
from tests.rig import PAGE, VOCAB, Rig, expected_tokens, make_submit
from tests.runtime.service.serving import Serving, slow_down

TOKEN = "secret"
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


class NoRanks:
    ranks: tuple[Any, ...] = ()

    def drop(self, stuck: list[Any]) -> None:
        assert not stuck


class ToyDeployment:
    """An engine behind a link server, and a drafter that connects to it, both through relays."""

    def __init__(self) -> None:
        self.target_ranks: tuple[Any, ...] = ()
        self.drafters = NoRanks()
        self.driver, self.drafter = Relay(), Relay()
        self.loss: PacelineError | None = None
        self.rigs: list[Rig] = []
        self.num_restarts = 0
        self._closing = threading.Event()
        self._servers: list[GrpcLinkServer] = []
        self._drafting: Link | None = None
        self._start()
        threading.Thread(target=self._keep_drafting, daemon=True).start()

    @property
    def state(self) -> str:
        """What the leader does."""
        return self.rigs[-1].pulse.beat().state

    def check(self) -> None:
        loss, self.loss = self.loss, None
        if loss is not None:
            raise loss

    def restart(self) -> None:
        self.num_restarts += 1
        self._end()
        self._start()

    def connect(self, timeout_s: float = 5.0) -> Link:
        hello = Hello(role="driver", name="driver")
        return connect_grpc(self.driver.address, token=TOKEN, hello=hello, timeout_s=timeout_s)

    def kill_engine(self) -> None:
        self.rigs[-1].engine.stop()
        self._servers[-1].close()
        self.loss = PeerLost("target rank 0 died")

    def kill_drafter(self) -> None:
        if self._drafting is not None:
            self._drafting.close()

    def close(self) -> None:
        self._closing.set()
        self._end()
        for relay in (self.driver, self.drafter):
            relay.close()

    def _start(self) -> None:
        rig = Rig(wait_budget_s=0.2)
        slow_down(rig, 0.02)
        server = GrpcLinkServer("127.0.0.1", token=TOKEN, on_link=rig.engine.join)
        self.driver.target = self.drafter.target = ("127.0.0.1", server.port)
        self.rigs.append(rig)
        self._servers.append(server)

    def _end(self) -> None:
        self.rigs[-1].engine.stop()
        self._servers[-1].close()

    def _keep_drafting(self) -> None:
        """Start a drafter in place of one that has ended, as a deployment does."""
        while not self._closing.wait(0.1):
            shard = PrefixShard(VOCAB, page_size=PAGE, noise=0.5)
            runner = ShardRunner(shard, SoloGroup())
            drafter = ModelDrafter(runner, SlotLedger(num_pages=400, page_size=PAGE))
            hello = introduction(drafter, "toy", VOCAB, joins=True)
            with contextlib.suppress(PacelineError):
                self._drafting = connect_grpc(
                    self.drafter.address, token=TOKEN, hello=hello, timeout_s=2.0
                )
                serve_drafts(self._drafting, drafter, MonotonicClock(), heartbeat_s=0.1)
                self._drafting.close()


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


def sampling_of(number: int) -> SamplingParams:
    return SamplingParams(temperature=0.0 if number % 2 else 0.9, seed=number)


def prompt_of(number: int) -> tuple[int, ...]:
    return tuple((number + n) % VOCAB for n in range(4 + 30 * (number % 3)))


def ask(address: str, number: int) -> list[int]:
    sampling = sampling_of(number)
    with Client(address) as client:
        chunks = list(
            client.generate(
                prompt_of(number),
                max_tokens=MAX_TOKENS,
                temperature=sampling.temperature,
                seed=sampling.seed,
                mode=("pearl", "speculative", "autoregressive")[number % 3],
                max_attempts=500,
                timeout_s=60,
            )
        )
    assert sum(chunk.finish_reason is not None for chunk in chunks) == 1
    return [token for chunk in chunks for token in chunk.token_ids]


def expected(number: int) -> list[int]:
    return expected_tokens(
        make_submit(prompt=prompt_of(number), max_tokens=MAX_TOKENS, sampling=sampling_of(number))
    )


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.0005)


@pytest.mark.parametrize("cell", CELLS)
def test_clients_get_every_token(deployment: ToyDeployment, serving: Serving, cell: Cell) -> None:
    host, port = serving.address.rsplit(":", 1)
    clients = Relay((host, int(port)))
    wires = {"driver wire": deployment.driver, "drafter wire": deployment.drafter}
    wire = wires.get(cell.victim, clients)
    wait_until(lambda: serving.gateway.status.drafters == 1)
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        running = []
        if cell.state != "idle":
            running = [pool.submit(ask, clients.address, n) for n in range(NUM_CLIENTS)]
        wait_until(lambda: deployment.state == cell.state)
        strike(deployment, cell, wire)
        running = running or [pool.submit(ask, clients.address, n) for n in range(NUM_CLIENTS)]
        found = [future.result(timeout=90) for future in running]
    assert found == [expected(number) for number in range(NUM_CLIENTS)]
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
