"""The actors of one training worker: one, or the ranks of a group, which are called alike."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.options.place_options import MIN_CPUS


class WorkerRanks:
    """Starts the actors of a worker, and ends all of them together."""

    def __init__(
        self,
        actor_class: type,
        arguments: Sequence[object],
        *,
        cpus: float = 0.0,
        gpus: float = 0.0,
        num_ranks: int = 1,
    ) -> None:
        """Reserve resources for the ranks, if there are several; `start` starts them.

        Args:
            actor_class: of one actor; of a rank if there are several.
            arguments: of the class; the rank follows them if there are several.
            cpus: cores of each actor.
            gpus: GPUs of each actor.
            num_ranks: actors of the worker.
        """
        self._arguments = arguments
        self._actors: list[Any] = []
        self._reserved: Any = None
        remote_class = ray.remote(actor_class)
        if num_ranks == 1:
            self._classes = [remote_class.options(num_cpus=cpus, num_gpus=gpus)]
            return
        cpus = max(cpus, MIN_CPUS)  # Ray reserves no bundle of nothing
        bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        # On one node if there is room: ranks exchange what they compute in every layer.
        self._reserved = placement_group([bundle] * num_ranks, strategy="PACK")
        self._classes = [
            remote_class.options(
                num_cpus=cpus,
                num_gpus=gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=self._reserved, placement_group_bundle_index=rank
                ),
            )
            for rank in range(num_ranks)
        ]

    def start(self) -> list[Any]:
        """Start the processes; return a call for each that ends with its id, once it is ready."""
        if self._reserved is None:
            self._actors = [self._classes[0].remote(*self._arguments)]
            return [self._actors[0].pid.remote()]
        self._actors = [
            one.remote(*self._arguments, rank) for rank, one in enumerate(self._classes)
        ]
        homes = [actor.home.remote() for actor in self._actors]
        spec = self._actors[0].offer.remote(*homes)
        return [actor.open.remote(spec) for actor in self._actors]

    def call(self, method: str, *arguments: object) -> list[Any]:
        """Start a call on every rank; the first returns the result."""
        return [getattr(actor, method).remote(*arguments) for actor in self._actors]

    def kill(self) -> None:
        """End all processes."""
        for actor in self._actors:
            ray.kill(actor)

    def close(self) -> None:
        """End all processes, and release what they reserve."""
        self.kill()
        if self._reserved is not None:
            remove_placement_group(self._reserved)
