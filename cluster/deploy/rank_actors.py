"""Ray actors as ranks of a role: wait for their calls, and tell why one failed."""

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from actors.shard_actor import NgramActor, ShardActor
from cluster.network.ray_errors import translated
from cluster.placement.placement import Node
from cluster.placement.reservation import Reservation
from runtime.errors import PacelineError, PeerLost, PeerTimeout
from runtime.hosts.rank_settings import ModelSettings

_START_TIMEOUT_S = 300.0
_ANSWER_TIMEOUT_S = 5.0
_WATCH_S = 2.0
"""How often a wait looks whether the ranks' nodes are still there."""


@dataclass(frozen=True, slots=True)
class RankActor:
    """One actor of a model group."""

    role: str
    rank: int
    actor: Any  # a Ray actor handle, which has no static type
    room: Reservation
    """Of its whole group."""

    @property
    def node(self) -> Node:
        """Where it runs."""
        return self.room.nodes[self.rank]

    @property
    def name(self) -> str:
        """What errors call it."""
        where = f" on {self.node.address}" if not self.room.is_on_one_node else ""
        return f"{self.role} rank {self.rank}{where}"


def start_ranks(settings: ModelSettings | None, room: Reservation) -> list[RankActor]:
    """Start a group's actors in their room; without a model, the one that copies n-grams."""
    if settings is None:
        actor = ray.remote(NgramActor).options(max_concurrency=4, **room.options[0]).remote()
        return [RankActor("drafter", 0, actor, room)]
    shard = ray.remote(ShardActor)
    return [
        RankActor(
            settings.role,
            rank,
            shard.options(max_concurrency=4, **options).remote(settings, rank),
            room,
        )
        for rank, options in enumerate(room.options)
    ]


def locations(ranks: list[RankActor]) -> str:
    """Return on which nodes the roles are, for people; "" where everything is on this one."""
    if all(rank.node.is_here for rank in ranks):
        return ""
    nodes: dict[str, list[str]] = {}
    for rank in ranks:
        names = nodes.setdefault(rank.role, [])
        if rank.node.name not in names:
            names.append(rank.node.name)
    return ", ".join(f"{role} on {' + '.join(names)}" for role, names in nodes.items())


def await_all(calls: dict[Any, RankActor]) -> dict[Any, Any]:
    """Return the calls' results, or raise the first failure with its rank's name."""
    waiting = list(calls)
    results: dict[Any, Any] = {}
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while waiting:
        done, waiting = ray.wait(waiting, timeout=_WATCH_S)
        if not done:
            _check_nodes_alive([calls[call] for call in waiting])
        if not done and time.monotonic() >= deadline_s:
            names = ", ".join(calls[call].name for call in waiting)
            raise PeerTimeout(f"{names} not ready within {_START_TIMEOUT_S:.0f} s")
        if done:
            deadline_s = time.monotonic() + _START_TIMEOUT_S
        for call in done:
            error = outcome(call, calls[call])
            if error is not None:
                raise error
            results[call] = ray.get(call)
    return results


def _check_nodes_alive(ranks: list[RankActor]) -> None:
    """Raise PeerLost for a rank whose node is gone: Ray lets its actor wait for ever."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for rank in ranks:
        if rank.node.node_id not in alive:
            raise PeerLost(f"{rank.name} did not start: {rank.node.name} left the cluster")


def kill_ranks(ranks: list[RankActor]) -> None:
    """End the ranks' processes and give their room back."""
    for rank in ranks:
        ray.kill(rank.actor)
    for room in {id(rank.room): rank.room for rank in ranks}.values():
        room.release()


def answers(rank: RankActor) -> bool:
    """Tell whether a rank's process still answers."""
    try:
        ray.get(rank.actor.pid.remote(), timeout=_ANSWER_TIMEOUT_S)
    except RayError:
        return False
    return True


def is_done(call: Any) -> bool:
    """Tell whether a call has ended, well or not."""
    return bool(ray.wait([call], timeout=0)[0])


def outcome(call: Any, rank: RankActor) -> PacelineError | None:
    """Return why a finished call failed, as an error of ours, or None."""
    try:
        ray.get(call)
    except RayError as error:
        return translated(error, rank.name)
    return None
