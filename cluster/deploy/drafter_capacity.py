"""Whether the nodes have capacity for drafter ranks beside the target.

Only the nodes count, never the driver: it may have more cores than the cluster, or none free.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.options.model_options import ModelOptions
from cluster.placement.placement import Need, Node, plan_places
from runtime.errors import ConfigError

_CPUS = 1.0
"""CPUs that a rank with a model keeps busy; with less, it slows its neighbors down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterCapacity:
    """The nodes that ranks may go to, and how many groups are planned on them."""

    nodes: Sequence[Node]
    replicas: int = 1
    """Targets side by side."""
    max_drafters: int | None = None
    """Drafters that may run side by side later; None: as many as at the start."""

    def requested_by(self, options: ModelOptions) -> str:
        """Return the option that requests drafter ranks; "" if none does."""
        if options.place.drafter != "auto":
            return f"`place.drafter` {options.place.drafter}"
        if options.drafter_tp is not None:
            return f"`drafter_tp` {options.drafter_tp}"
        if options.drafters > 1:
            return f"`drafters` {options.drafters}"
        return f"`max_drafters` {self.max_drafters}" if (self.max_drafters or 1) > 1 else ""

    def suffices(self, options: ModelOptions) -> bool:
        """Return whether a CPU, or a GPU, is left for each drafter rank beside the target."""
        target = Need(role="target", size=options.tp, gpus=_gpus_on(options.device))
        gpus = _gpus_on(options.device_of_drafters)
        drafter = Need(role="drafter", size=options.num_drafter_ranks, gpus=gpus)
        place = options.place
        num_drafters = max(options.drafters, self.max_drafters or 1)
        needs = [target, *[drafter] * num_drafters] * self.replicas
        try:
            plan_places(needs, self.nodes, replace(place, cpus=place.cpus or _CPUS))
        except ConfigError:
            return False
        return True


def _gpus_on(device: str) -> float:
    return 0.0 if device == "cpu" else 1.0
