"""Starts the actors of a model group where there is room, and joins them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.deploy.rank_actors import RankActor, await_all, kill_ranks, start_ranks
from cluster.placement.placement import Need, PlaceOptions
from cluster.placement.reservation import LOOPBACK, Placer, Reservation, check_group
from runtime.errors import PacelineError
from runtime.groups.rendezvous import choose_backend
from runtime.hosts.rank_settings import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The target's rank 0, and how its peers reach it."""

    rank: RankActor
    address: str
    token: str


class GroupStarter:
    """Opens the groups of one deployment."""

    def __init__(self, place: PlaceOptions, backend: str) -> None:
        self._place = place
        self._placer = Placer(place)
        self._backend = backend

    def place(self, needs: Sequence[Need], note: Callable[[str], None]) -> list[Reservation]:
        """Reserve room; see `Placer.place`.

        Raises:
            ConfigError: there is no room, or the group's backend does not reach across nodes.
            PeerError: a node left meanwhile, or another program took the room.
        """
        rooms = self._placer.place(needs, note)
        check_group(rooms, self._backend)
        return rooms

    def confine(self) -> None:
        """Place what comes later beside the target only: it cannot be reached from elsewhere."""
        self._placer.confine()

    def forget_target(self) -> None:
        """Place the next target wherever there is room."""
        self._placer = Placer(self._place)

    def opened(
        self, settings: ModelSettings | None, needs: Sequence[Need], note: Callable[[str], None]
    ) -> list[list[RankActor]]:
        """Return the ranks of new groups that have loaded their model, if there is one; blocks.

        Raises:
            ConfigError: there is no room, or the model cannot be loaded; no group is left then.
            PeerError: a rank died or did not get ready in time; no group is left then.
        """
        groups = [start_ranks(settings, room) for room in self.place(needs, note)]
        try:
            if settings is not None:
                opening: dict[Any, RankActor] = {}
                for ranks in groups:
                    opening |= self.open(ranks, settings)
                await_all(opening)
        except PacelineError:
            kill_ranks([rank for ranks in groups for rank in ranks])
            raise
        return groups

    def open(self, ranks: list[RankActor], settings: ModelSettings) -> dict[Any, RankActor]:
        """Start opening a group: rank 0 offers a meeting point, all join and load."""
        size, same_host = len(ranks), len({rank.node.node_id for rank in ranks}) == 1
        backend = self._backend
        if backend == "auto":
            backend = choose_backend(settings.device, same_host=same_host) if size > 1 else "solo"
        host = self.host_of(ranks[0], is_reached_here=same_host)
        offering = ranks[0].actor.offer.remote(backend, size, host)
        spec = await_all({offering: ranks[0]})[offering]
        return {rank.actor.open.remote(spec): rank for rank in ranks}

    def host_of(self, rank: RankActor, *, is_reached_here: bool) -> str:
        """Return the address a rank listens on: none that other nodes reach unless one has to."""
        if is_reached_here:
            return LOOPBACK
        if self._place.interface is None:
            return rank.node.address
        asking = rank.actor.address_on.remote(self._place.interface)
        address: str = await_all({asking: rank})[asking]
        return address
