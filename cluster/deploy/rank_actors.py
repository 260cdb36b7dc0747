"""Ray actors as ranks of a role: start them, wait for their calls, return why a call failed."""

import time
from dataclasses import dataclass
from typing import Any

import ray

from actors.shard_actor import NgramActor, ShardActor
from cluster.network.ray_errors import result_of
from cluster.placement.placement import Node
from cluster.placement.reservation import Reservation
from runtime.errors import PacelineError, PeerLost, PeerTimeout
from runtime.hosts.drafter_spec import ModelDrafterSpec, NgramDrafterSpec, RankedDrafterSpec
from runtime.hosts.rank_settings import ModelSettings

_START_TIMEOUT_S = 300.0
_ANSWER_TIMEOUT_S = 5.0
_WATCH_S = 2.0
"""How often a wait checks that the ranks' nodes are alive."""


@dataclass(frozen=True, slots=True)
class RankActor:
    """One actor of a model group."""

    role: str
    rank: int
    actor: Any  # a Ray actor handle, which has no static type
    reservation: Reservation
    """Of its whole group."""

    @property
    def node(self) -> Node:
        """Where it runs."""
        return self.reservation.nodes[self.rank]

    @property
    def name(self) -> str:
        """What errors call it."""
        where = f" on {self.node.address}" if not self.reservation.is_on_one_node else ""
        return f"{self.role} rank {self.rank}{where}"


def start_ranks(settings: ModelSettings, reservation: Reservation) -> list[RankActor]:
    """Start a model group's actors on their reserved nodes."""
    shard = ray.remote(ShardActor)
    return [
        RankActor(
            settings.role,
            rank,
            shard.options(max_concurrency=4, **options).remote(settings, rank),
            reservation,
        )
        for rank, options in enumerate(reservation.options)
    ]


def start_drafter_ranks(drafter: RankedDrafterSpec, reservation: Reservation) -> list[RankActor]:
    """Start a drafter's actors on their reserved nodes."""
    match drafter:
        case ModelDrafterSpec(model):
            return start_ranks(model, reservation)
        case NgramDrafterSpec(vocab_size):
            ngrams = ray.remote(NgramActor)
            options = reservation.options[0]
            actor = ngrams.options(max_concurrency=4, **options).remote(vocab_size)
            return [RankActor("drafter", 0, actor, reservation)]


def locations(ranks: list[RankActor]) -> str:
    """Return on which nodes each role runs, for people; "" if all run on this one."""
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
            results[call] = result_of(call, calls[call].name)
    return results


def _check_nodes_alive(ranks: list[RankActor]) -> None:
    """Raise PeerLost for a rank whose node is gone: Ray would never fail its call."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for rank in ranks:
        if rank.node.node_id not in alive:
            raise PeerLost(f"{rank.name} did not start: {rank.node.name} left the cluster")


def kill_ranks(ranks: list[RankActor]) -> None:
    """End the ranks' processes and release what they reserved."""
    for rank in ranks:
        ray.kill(rank.actor)
    for reservation in {id(rank.reservation): rank.reservation for rank in ranks}.values():
        reservation.release()


def is_alive(rank: RankActor) -> bool:
    """Return whether a rank's process answers."""
    try:
        result_of(rank.actor.pid.remote(), rank.name, timeout_s=_ANSWER_TIMEOUT_S)
    except PacelineError:
        return False
    return True


def is_done(call: Any) -> bool:
    """Return whether a call has ended, with a result or an error."""
    return bool(ray.wait([call], timeout=0)[0])
