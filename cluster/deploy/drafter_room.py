"""Whether a drafter gets ranks of its own: by what was asked, and what is free beside the target.

Nodes decide, never the driver: it may have more cores than the cluster, or none to spare.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cluster.network.ray_session import RaySession
from cluster.options.verb_options import ModelOptions
from cluster.placement.placement import Need, Node, PlaceOptions, plan_places
from cluster.placement.reservation import LOOPBACK, read_nodes
from runtime.errors import ConfigError
from runtime.models.model_facts import num_gpus
from runtime.node.cores import usable_cores

_CPUS = 1.0
"""What a rank with a model keeps busy; with less, it slows its neighbors down."""
_DRIVER_CPUS = 1
"""Cores of this machine that the driver and its threads take where it runs everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterRoom:
    """Where ranks may go, and how many groups are to go there."""

    nodes: Sequence[Node]
    replicas: int = 1
    """Targets side by side."""
    groups: int = 1
    """Drafters side by side of each target."""

    def asked_by(self, options: ModelOptions) -> str:
        """Return the option that asks for drafter ranks; "" where none does."""
        place = PlaceOptions.parse(options.place)
        if place.drafter != "auto":
            return f"--place drafter={place.drafter}"
        if options.drafters is not None:
            return f"--drafters {options.drafters}"
        return f"--drafter-groups {self.groups}" if self.groups > 1 else ""

    def suffices(self, options: ModelOptions) -> bool:
        """Return whether a whole CPU, or a GPU, is free for each drafter rank after the target."""
        gpus = 0.0 if options.device == "cpu" else 1.0
        target = Need(role="target", size=options.tp, gpus=gpus)
        drafter = Need(role="drafter", size=options.num_drafters, gpus=gpus)
        place = PlaceOptions.parse(options.place)
        needs = [target, *[drafter] * self.groups] * self.replicas
        try:
            plan_places(needs, self.nodes, replace(place, cpus=place.cpus or _CPUS))
        except ConfigError:
            return False
        return True


@contextmanager
def joined(address: str | None) -> Iterator[Sequence[Node]]:
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
    """Return this machine as the node of a Ray that is started here."""
    has = {"CPU": float(usable_cores() - _DRIVER_CPUS), "GPU": float(num_gpus())}
    return Node(node_id="", address=LOOPBACK, free=has, total=has, labels={}, is_here=True)
