"""Reservations on Ray nodes: their resources, and placement groups for what a plan assigns."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import (  # per node, Ray has no public way
    available_resources_per_node,
)
from ray._private.state import state as ray_state
from ray.exceptions import RaySystemError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.options.place_options import PlaceOptions
from cluster.placement.placement import Need, Node, Plan, plan_places
from runtime.errors import ConfigError, PeerError, PeerLost, PeerTimeout

LOOPBACK = "127.0.0.1"
_NODE_LABEL = "ray.io/node-id"
_RESERVE_S = 30.0
_POLL_S = 0.5
_WATCH_S = 2.0
"""How often a wait checks that its nodes are alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What the ranks of one group reserve, each on its node."""

    nodes: tuple[Node, ...]
    """Of each rank."""
    options: tuple[dict[str, Any], ...]
    """Of each rank: the options that its actor is created with."""
    group: Any  # a Ray placement group, which has no static type

    @property
    def is_on_one_node(self) -> bool:
        """Whether all ranks share a host."""
        return len({node.node_id for node in self.nodes}) == 1

    def release(self) -> None:
        """Release the resources; actors that still use them end."""
        try:
            remove_placement_group(self.group)
        except (RaySystemError, ConnectionError):
            return  # Ray is gone, and the reservation with it


class Placer:
    """Reserves resources for groups, and remembers the target's nodes."""

    def __init__(self, options: PlaceOptions) -> None:
        self._options = options
        self._target_ids: list[str] = []
        self._is_confined = False

    def reserve(self, needs: Sequence[Need], note: Callable[[str], None]) -> list[Reservation]:
        """Reserve resources for all groups, or for none.

        Waits at most `PlaceOptions.wait_s` for missing resources, and a moment for Ray.

        Raises:
            ConfigError: a group does not fit; names the resource and what the nodes have.
            PeerLost: a node left meanwhile, or is leaving.
            PeerTimeout: another program took the resources meanwhile.
        """
        plan = self.plan(needs, note)
        made: list[Reservation] = []
        try:
            for need, nodes in zip(needs, plan.nodes, strict=True):
                made.append(_reserve(need, nodes, plan.cpus, self._options.interface))
        except PeerError:
            for reservation in made:
                reservation.release()
            raise
        for need, nodes in zip(needs, plan.nodes, strict=True):
            if need.role == "target":
                self._target_ids = [node.node_id for node in nodes]
        return made

    def confine(self) -> None:
        """Reserve on the target's nodes only from now on: others cannot reach it."""
        self._is_confined = True

    def plan(self, needs: Sequence[Need], note: Callable[[str], None]) -> Plan:
        """Return where the groups would go; waits and raises as `reserve` does."""
        deadline_s = time.monotonic() + self._options.wait_s
        while True:
            try:
                nodes = read_nodes()
                if self._is_confined:
                    nodes = [node for node in nodes if node.node_id in self._target_ids]
                return plan_places(needs, nodes, self._options, target_ids=self._target_ids)
            except ConfigError as error:
                if time.monotonic() >= deadline_s:
                    raise
                note(f"waiting for resources: {error}")
            time.sleep(_POLL_S)


def check_group(reservations: Sequence[Reservation], backend: str) -> None:
    """Reject shared memory between nodes, and release the reservations then.

    Raises:
        ConfigError: the backend is shm, and a group has ranks on several nodes.
    """
    apart = [each for each in reservations if not each.is_on_one_node]
    if backend == "shm" and apart:
        for each in reservations:
            each.release()
        where = " and ".join(dict.fromkeys(node.name for node in apart[0].nodes))
        raise ConfigError(
            f"`group_backend` is shm: ranks that share memory cannot be on {where}; take gloo, "
            "or `place.target=pack`"
        )


def read_nodes() -> list[Node]:
    """Return the nodes that are alive with their resources, including joining and leaving ones."""
    free = available_resources_per_node()
    here = ray.get_runtime_context().get_node_id()
    leaving = ray_state.get_draining_nodes()
    return [
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            free=dict(free.get(node["NodeID"], {})),
            total=dict(node["Resources"]),
            labels=dict(node["Labels"]),
            is_here=node["NodeID"] == here,
            hindrance=_hindrance(node["NodeID"], leaving, free, now_s=time.time()),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def left_or_leaving(nodes: Sequence[Node]) -> str:
    """Return which nodes left the cluster or are leaving it, for people; "" if none."""
    now = {node.node_id: node for node in read_nodes()}
    hindrances = {
        node.name: now[node.node_id].hindrance if node.node_id in now else "left the cluster"
        for node in nodes
    }
    return "; ".join(f"{name} {what}" for name, what in hindrances.items() if what)


def _hindrance(
    node_id: str, leaving: Mapping[str, int], free: Mapping[str, object], *, now_s: float
) -> str:
    """Return why no rank may be placed on a node; "" if one may.

    Args:
        node_id: the node.
        leaving: when each draining node ends, in milliseconds; 0 is unknown.
        free: free resources of each node that has reported.
        now_s: the time.
    """
    if node_id in leaving:
        left_s = leaving[node_id] / 1000 - now_s
        when = f", gone in {left_s:.0f} s at the latest" if left_s > 0 else ""
        return f"is leaving the cluster (it drains{when})"
    return "" if node_id in free else "is joining (it has not reported its resources yet)"


def _reserve(need: Need, nodes: Sequence[Node], cpus: float, interface: str | None) -> Reservation:
    each = need.each(cpus)
    bundle = {name: amount for name, amount in each.items() if amount > 0}
    group = placement_group(
        [bundle for _ in nodes],
        strategy="STRICT_PACK" if len({node.node_id for node in nodes}) == 1 else "PACK",
        bundle_label_selector=[{_NODE_LABEL: node.node_id} for node in nodes],
    )
    _await_group(group, need, nodes)
    environment = {}
    if interface is not None and "/" not in interface:
        environment = {"env_vars": {"NCCL_SOCKET_IFNAME": interface}}
    options = [
        {
            "runtime_env": environment,
            "num_cpus": cpus,
            "num_gpus": need.gpus,
            "memory": int(need.memory) or None,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=rank
            ),
        }
        for rank in range(len(nodes))
    ]
    return Reservation(nodes=tuple(nodes), options=tuple(options), group=group)


def _await_group(group: Any, need: Need, nodes: Sequence[Node]) -> None:
    """Wait until Ray has reserved a placement group; remove the group if it does not."""
    deadline_s = time.monotonic() + _RESERVE_S
    while not group.wait(_WATCH_S):
        gone = left_or_leaving(nodes)
        late = time.monotonic() >= deadline_s
        if gone or late:
            remove_placement_group(group)
        if gone:
            raise PeerLost(
                f"the {need.role} lost its reserved nodes: {gone}; try again on the other nodes"
            )
        if late:
            where = ", ".join(sorted({node.address for node in nodes}))
            raise PeerTimeout(
                f"Ray did not reserve resources for the {need.role} on {where} within "
                f"{_RESERVE_S:.0f} s: another program may have taken them; try again"
            )
