"""Starts the actors of model groups on reserved nodes, and joins them into groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.deploy.rank_actors import RankActor, await_all, kill_ranks, start_drafter_ranks
from cluster.options.place_options import PlaceOptions
from cluster.placement.placement import Need
from cluster.placement.reservation import LOOPBACK, Placer, Reservation, check_group
from runtime.errors import PacelineError
from runtime.groups.rendezvous import choose_backend
from runtime.hosts.drafter_spec import RankedDrafterSpec, model_of
from runtime.hosts.rank_settings import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The target's rank 0, and how its peers reach it."""

    rank: RankActor
    address: str
    token: str


class GroupStarter:
    """Starts the groups of one deployment."""

    def __init__(self, place: PlaceOptions, backend: str) -> None:
        self._place = place
        self._placer = Placer(place)
        self._backend = backend

    def reserve(self, needs: Sequence[Need], note: Callable[[str], None]) -> list[Reservation]:
        """Reserve resources for groups; see `Placer.reserve`.

        Raises:
            ConfigError: the nodes have too few, or the backend does not reach across nodes.
            PeerError: a node left meanwhile, or another program took the resources.
        """
        reservations = self._placer.reserve(needs, note)
        check_group(reservations, self._backend)
        return reservations

    def confine(self) -> None:
        """Reserve on the target's nodes only from now on: others cannot reach it."""
        self._placer.confine()

    def forget_target(self) -> None:
        """Reserve for the next target on any nodes."""
        self._placer = Placer(self._place)

    def start_drafters(
        self, drafter: RankedDrafterSpec, needs: Sequence[Need], note: Callable[[str], None]
    ) -> list[list[RankActor]]:
        """Return the ranks of new drafters that have loaded their models, if any; blocks.

        Raises:
            ConfigError: the nodes have too few resources, or the model cannot be loaded; no new
                drafter is left then.
            PeerError: a rank died or did not get ready in time; no new drafter is left then.
        """
        groups = [start_drafter_ranks(drafter, each) for each in self.reserve(needs, note)]
        try:
            self.load_drafters(drafter, groups, {})
        except PacelineError:
            kill_ranks([rank for ranks in groups for rank in ranks])
            raise
        return groups

    def load_drafters(
        self,
        drafter: RankedDrafterSpec | None,
        groups: Sequence[list[RankActor]],
        opening: dict[Any, RankActor],
    ) -> None:
        """Load the drafters' models, if they have one; blocks until these and `opening` are done.

        Raises:
            ConfigError: a model cannot be loaded.
            PeerError: a rank died or did not get ready in time.
        """
        calls = dict(opening)
        model = model_of(drafter) if drafter is not None else None
        if model is not None:
            for ranks in groups:
                calls |= self.open_group(ranks, model)
        await_all(calls)

    def open_group(self, ranks: list[RankActor], settings: ModelSettings) -> dict[Any, RankActor]:
        """Start to open a group: rank 0 offers a meeting point, all ranks join and load."""
        size, same_host = len(ranks), len({rank.node.node_id for rank in ranks}) == 1
        backend = self._backend
        if backend == "auto":
            backend = choose_backend(settings.device, same_host=same_host) if size > 1 else "solo"
        host = self.host_of(ranks[0], is_reached_here=same_host)
        offering = ranks[0].actor.offer.remote(backend, size, host)
        spec = await_all({offering: ranks[0]})[offering]
        return {rank.actor.open.remote(spec): rank for rank in ranks}

    def host_of(self, rank: RankActor, *, is_reached_here: bool) -> str:
        """Return the address a rank listens on: loopback if no other node has to reach it."""
        if is_reached_here:
            return LOOPBACK
        if self._place.interface is None:
            return rank.node.address
        asking = rank.actor.address_on.remote(self._place.interface)
        address: str = await_all({asking: rank})[asking]
        return address
