"""The nodes that a plan can place ranks on: those of a Ray cluster, or this machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster.network.ray_session import RaySession
from cluster.placement.placement import Node
from cluster.placement.reservation import LOOPBACK, read_nodes
from runtime.models.model_facts import num_gpus
from runtime.node.cores import usable_cores

_DRIVER_CPUS = 1
"""Cores that the driver and its threads use on a machine that runs everything."""


@contextmanager
def cluster_nodes(address: str | None) -> Iterator[Sequence[Node]]:
    """Join the cluster that a plan is made for, and yield its nodes.

    Args:
        address: as `--ray` names it; None yields this machine, on which a Ray is started later.

    Raises:
        ConfigError: the cluster cannot be joined.
    """
    if address is None:
        yield (this_machine(),)
        return
    with RaySession(address, num_actors=0):
        yield read_nodes()


def this_machine() -> Node:
    """Return this machine as the only node of a Ray that is started here."""
    resources = {"CPU": float(usable_cores() - _DRIVER_CPUS), "GPU": float(num_gpus())}
    return Node(
        node_id="", address=LOOPBACK, free=resources, total=resources, labels={}, is_here=True
    )
