"""A deployment of threads: toy engine and drafter, real links between them, and clients of it."""

import contextlib
import threading
from typing import Any

from parallel.decoding.types import SamplingParams
from parallel.group import SoloGroup
from parallel.messages import Hello
from runtime.client import Client
from runtime.clock import MonotonicClock
from runtime.drafters.drafting import introduction, serve_drafts
from runtime.drafters.model_drafting import ModelDrafter
from runtime.errors import PacelineError, PeerLost
from runtime.links.grpc_link import GrpcLinkServer, connect_grpc
from runtime.links.link import Link
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard
from tests.support.integration.wires import Relay
from tests.support.rig import PAGE, VOCAB, Rig, expected_tokens, make_submit
from tests.support.serving import slow_down

TOKEN = "secret"


class NoRanks:
    ranks: tuple[Any, ...] = ()

    def kill(self, stuck: list[Any]) -> None:
        assert not stuck


class ToyDeployment:
    """An engine behind a link server, and a drafter that connects to it, both through relays."""

    def __init__(self, forward_s: float = 0.02) -> None:
        self._forward_s = forward_s
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
        slow_down(rig, self._forward_s)
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


def sampling_of(number: int) -> SamplingParams:
    return SamplingParams(temperature=0.0 if number % 2 else 0.9, seed=number)


def prompt_of(number: int) -> tuple[int, ...]:
    return tuple((number + n) % VOCAB for n in range(4 + 30 * (number % 3)))


def ask(address: str, number: int, max_tokens: int) -> list[int]:
    sampling = sampling_of(number)
    with Client(address) as client:
        chunks = list(
            client.generate(
                prompt_of(number),
                max_tokens=max_tokens,
                temperature=sampling.temperature,
                seed=sampling.seed,
                mode=("pearl", "speculative", "autoregressive")[number % 3],
                timeout_s=60,
            )
        )
    assert sum(chunk.finish_reason is not None for chunk in chunks) == 1
    return [token for chunk in chunks for token in chunk.token_ids]


def expected(number: int, max_tokens: int) -> list[int]:
    return expected_tokens(
        make_submit(prompt=prompt_of(number), max_tokens=max_tokens, sampling=sampling_of(number))
    )
