"""A Ray shell on each node that measures it for `cluster check`."""

import ray

from runtime.groups.rendezvous import GroupOffer, GroupSpec, join_group, offer_group
from runtime.node.network_interfaces import address_on
from runtime.node.node_probe import (
    NodeFacts,
    PairTimes,
    ProbeServer,
    ReduceTimes,
    measure_all_reduce,
    measure_pair,
    read_node_facts,
)

_GROUP_TIMEOUT_S = 30.0


class ProbeActor:
    """Reads the facts of its node and measures the connections to others."""

    def __init__(self) -> None:
        self._server: ProbeServer | None = None
        self._offer: GroupOffer | None = None

    def facts(self) -> NodeFacts:
        """Return the facts of the node."""
        return read_node_facts(ray.__version__)

    def address_on(self, interface: str) -> str:
        """Return the node's address on an interface or in a network."""
        return address_on(interface)

    def listen(self, host: str) -> tuple[int, bytes]:
        """Start to answer other nodes; return the port and the password they must send."""
        self._server = ProbeServer(host)
        return self._server.port, self._server.word

    def measure(self, host: str, port: int, word: bytes) -> PairTimes:
        """Measure the connection to another node."""
        return measure_pair(host, port, word)

    def offer(self, size: int, host: str) -> GroupSpec:
        """Open the meeting point of a group over all nodes (rank 0)."""
        self._offer = offer_group(
            "nodes", size, backend="gloo", timeout_s=_GROUP_TIMEOUT_S, host=host
        )
        return self._offer.spec

    def all_reduce(self, spec: GroupSpec, rank: int) -> ReduceTimes:
        """Join the group and measure sums over it; blocks until all have."""
        group = self._offer.join() if self._offer is not None else join_group(spec, rank)
        try:
            return measure_all_reduce(group)
        finally:
            group.close()
