"""Starts the actors of a model group where there is room, and joins them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.shard import NgramActor, ShardActor
from cluster.placement import Need, PlaceOptions
from cluster.ranks import Rank, await_all, kill_ranks
from cluster.reservation import LOOPBACK, Placer, Reservation
from runtime.errors import ConfigError, PacelineError
from runtime.groups.rendezvous import choose_backend
from runtime.settings import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The target's rank 0, and how its peers reach it."""

    rank: Rank
    address: str
    token: str


class GroupOpener:
    """Opens the groups of one deployment."""

    def __init__(self, place: PlaceOptions, backend: str) -> None:
        self._place = place
        self._placer = Placer(place)
        self._backend = backend

    def place(self, needs: Sequence[Need], note: Callable[[str], None]) -> list[Reservation]:
        """Reserve room; see `Placer.place`."""
        return self._placer.place(needs, note)

    def opened(
        self, settings: ModelSettings | None, need: Need, note: Callable[[str], None]
    ) -> list[Rank]:
        """Return the ranks of a new group that has loaded its model, if it has one; blocks.

        Raises:
            ConfigError: there is no room, or the model cannot be loaded.
            PeerError: a rank died or did not get ready in time.
        """
        (room,) = self.place([need], note)
        new = ranks_of(settings, room)
        try:
            if settings is not None:
                await_all(self.open(new, settings))
        except PacelineError:
            kill_ranks(new)
            raise
        return new

    def open(self, ranks: list[Rank], settings: ModelSettings) -> dict[Any, Rank]:
        """Start opening a group: rank 0 offers a meeting point, all join and load."""
        size, same_host = len(ranks), len({rank.node.node_id for rank in ranks}) == 1
        backend = self._backend
        if backend == "shm" and not same_host:
            where = ", ".join(rank.node.address for rank in ranks)
            raise ConfigError(
                f"--group shm needs the {settings.role}'s ranks on one node, they are on {where}: "
                "take gloo, or --place target=pack"
            )
        if backend == "auto":
            backend = choose_backend(settings.device, same_host=same_host) if size > 1 else "solo"
        host = self.host_of(ranks[0], is_reached_here=same_host)
        offering = ranks[0].actor.offer.remote(backend, size, host)
        spec = await_all({offering: ranks[0]})[offering]
        return {rank.actor.open.remote(spec): rank for rank in ranks}

    def host_of(self, rank: Rank, *, is_reached_here: bool) -> str:
        """Return the address a rank listens on: none that other nodes reach unless one has to."""
        if is_reached_here:
            return LOOPBACK
        if self._place.interface is None:
            return rank.node.address
        asking = rank.actor.address_on.remote(self._place.interface)
        address: str = await_all({asking: rank})[asking]
        return address


def ranks_of(settings: ModelSettings | None, room: Reservation) -> list[Rank]:
    """Return a group's actors in their room; without a model, the one that copies n-grams."""
    if settings is None:
        made = ray.remote(NgramActor).options(max_concurrency=4, **room.options[0])
        return [Rank("drafter", 0, made.remote(), room)]
    shard = ray.remote(ShardActor)
    return [
        Rank(
            settings.role,
            rank,
            shard.options(max_concurrency=4, **options).remote(settings, rank),
            room,
        )
        for rank, options in enumerate(room.options)
    ]
