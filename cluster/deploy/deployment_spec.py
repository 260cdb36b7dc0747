"""What a deployment starts."""

from dataclasses import dataclass, field, replace

from cluster.placement.placement import Need, PlaceOptions
from runtime.hosts.rank_settings import LeaderSettings, ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """What to start."""

    target: ModelSettings
    tp: int
    leader: LeaderSettings
    drafter: ModelSettings | None
    """None with `ngram` false means no drafter."""
    num_drafters: int = 0
    """Ranks of each drafter group."""
    drafter_groups: int = 1
    """Drafters that draft side by side, each for requests of its own."""
    drafter_restarts: int = 3
    """Times in ten minutes that lost drafters are started anew."""
    ngram: bool = False
    vocab_size: int = 0
    """The target's; an n-gram drafter announces it."""
    group_backend: str = "auto"
    link: str = "grpc"
    """Between leader and drafter: grpc, gloo or nccl."""
    place: PlaceOptions = field(default_factory=PlaceOptions)
    """Which nodes the ranks go to, and what they reserve there."""
    num_gpus: float = 0.0
    """Of each rank with a model."""
    target_bytes: int = 0
    """Memory that each target rank reserves on its node; 0 reserves none."""
    drafter_bytes: int = 0
    """The same of each drafter rank."""

    @property
    def num_actors(self) -> int:
        """Actors this needs."""
        each = self.num_drafters if self.drafter is not None else int(self.ngram)
        return self.tp + each * self.drafter_groups

    @property
    def has_drafter_ranks(self) -> bool:
        """Whether drafters have processes of their own."""
        return self.drafter is not None or self.ngram

    @property
    def target_only(self) -> "DeploymentSpec":
        """The same without any drafter."""
        leader = replace(self.leader, inline_drafter=None, lookup=None)
        return replace(self, leader=leader, drafter=None, ngram=False)

    @property
    def has_inline_drafter(self) -> bool:
        """Whether a drafter works in the leader's process."""
        return self.leader.inline_drafter is not None or self.leader.lookup is not None

    @property
    def target_need(self) -> Need:
        """The room of the target's ranks."""
        return Need(role="target", size=self.tp, gpus=self.num_gpus, memory=self.target_bytes)

    @property
    def drafter_need(self) -> Need | None:
        """The room of one drafter group; None if it has no ranks."""
        if self.drafter is None:
            return Need(role="drafter", size=1) if self.ngram else None
        return Need(
            role="drafter", size=self.num_drafters, gpus=self.num_gpus, memory=self.drafter_bytes
        )
