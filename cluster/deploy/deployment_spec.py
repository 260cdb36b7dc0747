"""What a deployment starts."""

from dataclasses import dataclass, field, replace

from cluster.options.place_options import PlaceOptions
from cluster.placement.placement import Need
from runtime.hosts.drafter_spec import (
    DrafterSpec,
    InlineDrafterSpec,
    ModelDrafterSpec,
    NgramDrafterSpec,
    NoDrafterSpec,
    RankedDrafterSpec,
)
from runtime.hosts.rank_settings import LeaderSettings, ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """What to start."""

    target: ModelSettings
    tp: int
    leader: LeaderSettings
    drafter: DrafterSpec = field(default_factory=NoDrafterSpec)
    num_drafters: int = 1
    """Drafters side by side, each for its own requests."""
    drafter_restarts: int = 3
    """How often in ten minutes lost drafters are replaced."""
    group_backend: str = "auto"
    link: str = "grpc"
    """Between leader and drafter: grpc, gloo or nccl."""
    place: PlaceOptions = field(default_factory=PlaceOptions)
    """Which nodes the ranks go to, and what they reserve there."""
    target_bytes: int = 0
    """Memory that each target rank reserves on its node; 0 reserves none."""
    drafter_bytes: int = 0
    """The same of each drafter rank."""

    @property
    def num_drafter_ranks(self) -> int:
        """Ranks of all drafters; 0 where the drafter works in the leader's process."""
        return self.drafter.num_ranks * self.num_drafters

    @property
    def num_actors(self) -> int:
        """Actors this needs."""
        return self.tp + self.num_drafter_ranks

    @property
    def ranked_drafter(self) -> RankedDrafterSpec | None:
        """The drafter, if it has its own processes."""
        match self.drafter:
            case ModelDrafterSpec() | NgramDrafterSpec() as ranked:
                return ranked
            case _:
                return None

    @property
    def inline_drafter(self) -> InlineDrafterSpec:
        """What drafts in the leader's process."""
        match self.drafter:
            case ModelDrafterSpec() | NgramDrafterSpec():
                return NoDrafterSpec()
            case inline:
                return inline

    @property
    def has_inline_drafter(self) -> bool:
        """Whether a drafter works in the leader's process."""
        return self.inline_drafter != NoDrafterSpec()

    @property
    def target_only(self) -> "DeploymentSpec":
        """The same without any drafter."""
        return replace(self, drafter=NoDrafterSpec())

    @property
    def target_need(self) -> Need:
        """What the target's ranks reserve."""
        gpus = _gpus_of(self.target)
        return Need(role="target", size=self.tp, gpus=gpus, memory=self.target_bytes)

    @property
    def drafter_need(self) -> Need | None:
        """What the ranks of one drafter reserve; None if it has none."""
        match self.drafter:
            case ModelDrafterSpec(model, size):
                gpus, memory = _gpus_of(model), self.drafter_bytes
                return Need(role="drafter", size=size, gpus=gpus, memory=memory)
            case NgramDrafterSpec():
                return Need(role="drafter", size=1)
            case _:
                return None


def _gpus_of(model: ModelSettings) -> float:
    """Return how many GPUs each rank of a model has."""
    return 1.0 if model.device.startswith("cuda") else 0.0
