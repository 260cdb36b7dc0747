"""What messages and collectives take: latency, bandwidth, rings, trees, nodes of several ranks.

The usual cost model of collectives (Thakur, Rabenseifner, Gropp, "Optimization of collective
communication operations in MPICH", 2005): a message takes its latency and its bytes' time.
"""

from dataclasses import dataclass, field
from math import ceil, inf, log2


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A connection between two devices or processes."""

    latency_s: float = 0.0
    """One way."""
    bytes_per_s: float = inf

    def send_s(self, num_bytes: float) -> float:
        """Return the seconds until a message has arrived."""
        return self.latency_s + num_bytes / self.bytes_per_s

    def all_reduce_s(self, num_bytes: float, ranks: int) -> float:
        """Return an all-reduce's seconds: of a ring or of a tree, whichever is the faster."""
        if ranks == 1:
            return 0.0
        ring_s = 2 * (ranks - 1) * self.send_s(num_bytes / ranks)
        tree_s = 2 * ceil(log2(ranks)) * self.send_s(num_bytes)
        return min(ring_s, tree_s)

    def all_gather_s(self, num_bytes: float, ranks: int) -> float:
        """Return an all-gather's seconds; each rank brings `num_bytes`."""
        if ranks == 1:
            return 0.0
        ring_s = (ranks - 1) * self.send_s(num_bytes)
        doubling_s = ceil(log2(ranks)) * self.latency_s
        return min(ring_s, doubling_s + (ranks - 1) * num_bytes / self.bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """Nodes of several devices each; a group fills one node before the next."""

    inside: Line = field(default_factory=Line)
    """Between two devices of a node."""
    between: Line = field(default_factory=Line)
    """Between two nodes."""
    per_node: int = 8
    """Devices of a node."""

    def nodes_of(self, ranks: int) -> int:
        """Return the nodes that a group lies on."""
        return ceil(ranks / self.per_node)

    def all_reduce_s(self, num_bytes: float, ranks: int) -> float:
        """Return the seconds: inside the nodes first, each rank's share between them, and back."""
        nodes = self.nodes_of(ranks)
        each = min(ranks, self.per_node)
        inside_s = self.inside.all_reduce_s(num_bytes, each)
        return inside_s + self.between.all_reduce_s(num_bytes / each, nodes)

    def all_gather_s(self, num_bytes: float, ranks: int) -> float:
        """Return the seconds: between the nodes first, then inside them."""
        nodes = self.nodes_of(ranks)
        each = min(ranks, self.per_node)
        between_s = self.between.all_gather_s(num_bytes, nodes)
        return between_s + self.inside.all_gather_s(num_bytes * nodes, each)
