"""Options of where ranks run: the nodes they go to, and what they reserve there."""

from dataclasses import dataclass
from typing import Annotated, Literal

from runtime.checking.tables import Range, Unset

MIN_CPUS = 0.01
"""The smallest reservation of a rank: a placement group cannot reserve 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    """Which nodes the ranks go to, and what they reserve there."""

    target: Literal["auto", "pack", "spread"] = "auto"
    """Nodes of the target's ranks. auto is one node if possible, otherwise as few as possible; with
    pack, a target that does not fit on one node is rejected; spread uses as many as there are."""
    nodes: Annotated[int | None, Range(least=1), Unset("all")] = None
    """Nodes that spread uses."""
    drafter: Literal["auto", "near", "far"] = "auto"
    """Node of the drafter. auto is the leader's node if possible, otherwise any; near and far give
    the drafter ranks of its own: near on the leader's node, far on a node without target ranks."""
    cpus: Annotated[float | None, Range(least=MIN_CPUS), Unset("auto")] = None
    """CPUs that each rank reserves, and its number of threads. auto is 1, or less where the nodes
    have too few."""
    domain: str | None = None
    """A Ray node label, for example of an NVLink domain. Ranks on several nodes stay within one of
    its values."""
    interface: str | None = None
    """Name of the network interface where groups and links listen, or a network such as 10.0.0.0/8;
    Ray's own address by default."""
    port: Annotated[int, Range(least=0, most=65535)] = 0
    """Port of links to the leader; further replicas use the next ones. 0 takes any free port."""
    timeout_s: Annotated[float, Range(least=0.1)] = 20.0
    """Seconds that a rank waits for another one within a step before it marks it as lost."""
    wait_s: Annotated[float, Range(least=0)] = 10.0
    """Seconds to wait for nodes that are still joining, or for resources that others release."""
