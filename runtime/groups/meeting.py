"""Where the ranks of a group meet, decided by where their processes run."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.groups.rendezvous import GroupOffer, choose_backend, offer_group

AUTO = "auto"
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Home:
    """The node of a rank's process."""

    node_id: str
    address: str


def offer_between(
    homes: Sequence[Home], *, role: str, backend: str, device: str, timeout_s: float
) -> GroupOffer:
    """Prepare a group in rank 0's process.

    Args:
        homes: of all ranks, in their order.
        role: names the ranks in errors.
        backend: a backend of groups, or "auto": the fastest that reaches all ranks.
        device: where the ranks compute.
        timeout_s: deadline of the rendezvous and of every wait.

    Raises:
        ConfigError: there is no such backend.
    """
    same_host = len({home.node_id for home in homes}) == 1
    if backend == AUTO:
        backend = choose_backend(device, same_host=same_host)
    host = _LOOPBACK if same_host else homes[0].address
    return offer_group(role, len(homes), backend=backend, timeout_s=timeout_s, host=host)
