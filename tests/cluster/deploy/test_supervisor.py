"""The supervisor over toy engines: restarts, reconnections, and when it gives up."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.rank_actors import RankActor
from cluster.deploy.rank_liveness import Stuck
from cluster.deploy.supervisor import Supervision, Supervisor
from runtime.client import Client, ServiceError
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.engine.engine_limits import EngineConfig
from runtime.errors import ConfigError, PacelineError, PeerLost, PeerTimeout
from runtime.hosts.drafter_spec import LookupDrafterSpec
from runtime.hosts.rank_settings import LeaderSettings, ModelSettings
from runtime.links.link import Link
from runtime.restarts import RestartLimits
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until

LONG = 150
QUICK = Supervision(restarts=RestartLimits(most=3, first_pause_s=0.01))


class NoDrafters:
    """A deployment's drafters, of which there are none."""

    ranks: tuple[Any, ...] = ()

    def kill(self, stuck: list[Any]) -> None:
        assert not stuck


class ToyDeployment:
    """An engine in this process that can be lost and restarted."""

    def __init__(self) -> None:
        self.target_ranks: tuple[Any, ...] = ()
        self.drafters = NoDrafters()
        self.rigs = [self._rig()]
        self.loss: PacelineError | None = None
        self.refusals: list[PacelineError] = []
        """What the next restarts fail with."""
        self.num_restarts = 0
        self.closed = False
        leader = LeaderSettings(
            limits=EngineConfig(vocab_size=64, max_positions=64, max_batch=16), draft_wait_s=1.0
        )
        target = ModelSettings(role="target", directory="target")
        self.spec = DeploymentSpec(
            target=target, tp=1, leader=leader, drafter=LookupDrafterSpec(LookupSettings())
        )

    def check(self) -> None:
        if self.loss is not None:
            loss, self.loss = self.loss, None
            raise loss

    def restart(self) -> None:
        self.num_restarts += 1
        self.rigs[-1].engine.stop()
        if self.refusals:
            raise self.refusals.pop(0)
        self.rigs.append(self._rig())

    def connect(self, timeout_s: float = 1.0) -> Link:  # noqa: ARG002  (as the real one)
        return self.rigs[-1].driver()

    def drop_inline_drafter(self) -> None:
        self.spec = self.spec.target_only

    def close(self) -> None:
        self.closed = True

    def lose(self, error: PacelineError) -> None:
        self.rigs[-1].engine.stop()
        self.loss = error

    def _rig(self) -> Rig:
        rig = Rig()
        rig.attach_model()
        slow_down(rig, 0.005)
        return rig


@pytest.fixture
def deployment() -> Iterator[ToyDeployment]:
    made = ToyDeployment()
    yield made
    for rig in made.rigs:
        rig.close()


@pytest.fixture
def serving(deployment: ToyDeployment) -> Iterator[Serving]:
    made = Serving(deployment.rigs[0], recovers=True)
    yield made
    made.close()


@pytest.fixture
def supervisor(deployment: ToyDeployment, serving: Serving) -> Iterator[Supervisor]:
    made = Supervisor(deployment, serving.gateway, supervision=QUICK)  # type: ignore[arg-type]
    made.start()
    yield made
    made.close()


def read(serving: Serving, number: int = 3, **fields: Any) -> list[int]:
    with Client(serving.address) as client:
        chunks = list(client.generate([1, 2, number], max_tokens=LONG, **fields))
    return [token for chunk in chunks for token in chunk.token_ids]


def expected(number: int = 3) -> list[int]:
    return expected_tokens(make_submit(prompt=(1, 2, number), max_tokens=LONG))


def test_a_lost_target_is_restarted_and_requests_continue(
    deployment: ToyDeployment, serving: Serving, supervisor: Supervisor
) -> None:
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(read, serving, number) for number in range(4)]
        wait_until(lambda: serving.gateway.num_open == 4)
        deployment.refusals = [ConfigError("no room yet"), PeerLost("a rank died at once")]
        deployment.lose(PeerLost("target rank 1 died"))
        found = [future.result(timeout=60) for future in running]
    assert found == [expected(number) for number in range(4)]
    assert deployment.num_restarts == 3
    (recovery,) = supervisor.recoveries
    assert recovery.cause == "target rank 1 died"
    assert recovery.seconds > 0


def test_a_leader_that_is_well_gets_a_new_link(
    deployment: ToyDeployment, serving: Serving, supervisor: Supervisor
) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(read, serving)
        wait_until(lambda: serving.gateway.num_open == 1)
        serving.gateway.lose(0, PeerLost("the wire was cut"))
        assert running.result(timeout=60) == expected()
    assert deployment.num_restarts == 0
    assert supervisor.recoveries == []
    assert serving.gateway.replicas[0].num_attached == 2


def test_a_target_that_breaks_too_often_is_given_up(
    deployment: ToyDeployment, serving: Serving, supervisor: Supervisor
) -> None:
    deployment.refusals = [PeerLost(f"the checkpoint is gone, try {n}") for n in range(5)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, serving, 3, patience_s=0)
        wait_until(lambda: serving.gateway.num_open == 1)
        deployment.lose(PeerLost("target rank 0 died"))
        with pytest.raises(ServiceError, match="lost too often, last of all: the checkpoint"):
            waiting.result(timeout=30)
    assert deployment.num_restarts == 3
    wait_until(lambda: supervisor.failure is not None)
    assert serving.gateway.replicas[0].state == "gone"
    assert "try 2" in str(supervisor.failure)


@pytest.mark.parametrize(
    ("state", "rank", "is_dropped"),
    [("drafting", 0, True), ("drafting", 1, False), ("verifying", 0, False), ("", 0, False)],
)
def test_a_leader_that_hangs_in_its_inline_drafter_comes_back_without_it(
    deployment: ToyDeployment, serving: Serving, state: str, rank: int, is_dropped: bool
) -> None:
    supervisor = Supervisor(deployment, serving.gateway, supervision=QUICK)  # type: ignore[arg-type]
    hanging = RankActor("target", rank, None, _any(None))
    stuck = Stuck(hanging, PeerTimeout("target rank 0 has been drafting for 31 s"), state)
    supervisor._liveness = _any(FixedLiveness([stuck]))
    assert supervisor._problem() is stuck.error
    assert deployment.spec.has_inline_drafter != is_dropped


class FixedLiveness:
    """A liveness monitor that finds the same ranks each time."""

    def __init__(self, found: list[Stuck]) -> None:
        self._found = found

    def check(self, ranks: object) -> list[Stuck]:  # noqa: ARG002
        return self._found

    def beats(self) -> list[object]:
        return []


def _any(value: object) -> Any:
    return value


def test_closing_ends_a_restart_that_waits(deployment: ToyDeployment, serving: Serving) -> None:
    slow = Supervision(restarts=RestartLimits(most=9, first_pause_s=60, longest_pause_s=60))
    supervisor = Supervisor(deployment, serving.gateway, supervision=slow)  # type: ignore[arg-type]
    supervisor.start()
    deployment.refusals = [PeerLost("not yet"), PeerLost("not yet")]
    deployment.lose(PeerLost("target rank 0 died"))
    wait_until(lambda: deployment.num_restarts == 1)
    start_s = time.monotonic()
    supervisor.close()
    assert deployment.closed
    assert time.monotonic() - start_s < 20  # not the minute it would have waited
