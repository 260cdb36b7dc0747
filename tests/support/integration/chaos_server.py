"""`paceline serve` with slow ranks, wires that can be cut, and a hand that kills at its moment.

    python -m tests.support.integration.chaos_server TARGET_MS DRAFT_MS ROW_MS PORT PORT serve ...

A forward takes so long at least, of a drafter ROW_MS more for each request, so that a moment of a
kind can be hit. Driver and drafters reach the leader through the two ports, where they are not 0.
Each line on standard input is a command as JSON: {"rank": "target rank 0", "state": "verifying",
"signal": 9} waits until the leader is in that state (at most 20 s), sends the signal, and answers
on standard output with a line of JSON.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.shard_actor import ShardActor
from cluster.cli import main as cli
from cluster.deploy import fleet, rank_actors
from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.group_starter import Leader
from runtime.groups.rendezvous import GroupSpec

_WAIT_S = 20.0
_REPLACED_S = 30.0
DEPLOYMENTS: list[Deployment] = []


class SlowShardActor(ShardActor):
    """A rank whose forwards take a while."""

    seconds: dict[str, float] = {}  # noqa: RUF012  (set once, before any is made)

    def open(self, spec: GroupSpec) -> None:
        """Load the model, and make it slow."""
        super().open(spec)
        model: Any = self._host.runner._model
        forward, wait_s = model.forward, self.seconds[self._settings.role]
        row_s = self.seconds["row"] if self._settings.role == "drafter" else 0.0

        def slow(rows: Any, width: int) -> Any:
            time.sleep(wait_s + row_s * len(rows))
            return forward(rows, width)

        model.forward = slow


class WiredDeployment(Deployment):
    """Reached through the test's wires."""

    driver_port = drafter_port = 0

    def __init__(self, spec: DeploymentSpec) -> None:
        super().__init__(spec)
        DEPLOYMENTS.append(self)

    def _lead(self) -> Leader:
        leader = super()._lead()
        if self.driver_port:
            self._address = f"127.0.0.1:{self.driver_port}"
        if self.drafter_port:
            leader = replace(leader, address=f"127.0.0.1:{self.drafter_port}")
        return leader


def strike(command: dict[str, Any]) -> dict[str, Any]:
    """Wait for the moment, then strike; where a rank is just being replaced, strike the new one."""
    deadline_s = time.monotonic() + _REPLACED_S
    while True:
        try:
            return strike_now(command)
        except RayActorError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)


def strike_now(command: dict[str, Any]) -> dict[str, Any]:
    """Wait for the moment, then strike."""
    deployment = DEPLOYMENTS[command.get("replica", 0)]
    all_ranks = [*deployment.target_ranks, *deployment.drafters.ranks]
    leader = deployment.target_ranks[0]
    victim = next((rank for rank in all_ranks if rank.name == command.get("rank")), leader)
    pid = ray.get(victim.actor.pid.remote(), timeout=_WAIT_S)
    deadline_s = time.monotonic() + _WAIT_S
    state = ""
    while state != command["state"] and time.monotonic() < deadline_s:
        state = ray.get(leader.actor.beat.remote(), timeout=_WAIT_S).state
    number = int(command.get("signal", 0))
    if number:
        os.kill(pid, number)
    if number == signal.SIGSTOP:
        threading.Timer(command["seconds"], wake, (pid,)).start()
    return {"pid": pid, "state": state}


def wake(pid: int) -> None:
    """Continue a stopped process, unless it was killed meanwhile."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


def obey() -> None:
    """Carry commands out."""
    for line in sys.stdin:
        try:
            answer = strike(json.loads(line))
        except Exception as error:  # the test needs to know
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    target_ms, draft_ms, row_ms, driver_port, drafter_port = map(int, sys.argv[1:6])
    times = {"target": target_ms, "drafter": draft_ms, "row": row_ms}
    SlowShardActor.seconds = {name: ms / 1000 for name, ms in times.items()}
    WiredDeployment.driver_port, WiredDeployment.drafter_port = driver_port, drafter_port
    rank_actors.ShardActor = SlowShardActor  # type: ignore[attr-defined]
    fleet.Deployment = WiredDeployment  # type: ignore[attr-defined]
    threading.Thread(target=obey, daemon=True).start()
    sys.argv = ["paceline", *sys.argv[6:]]
    cli.main()
