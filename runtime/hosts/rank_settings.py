"""The settings of a model rank; plain values, so they travel to any node."""

from dataclasses import dataclass

from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.engine.engine_limits import EngineConfig
from runtime.links.torch_link import TorchLinkSpec
from runtime.rank.group_models import NamedModel
from runtime.rank.virtual_shard import VirtualSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParallel:
    """How the layers of a drafter lie on its ranks: whole, several running at once (EasySpec)."""

    width: int | None
    """Layers whose attention runs at once; None leaves it to the leader, which measures."""
    first_layer: int = 0
    """Layers before this one always run one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintSettings:
    """How a drafter with ranks of its own compiles the constraints of requests."""

    tokenizer_directory: str
    """The target's, which is read when the first constraint arrives."""
    vocab_size: int
    """The target's."""
    eos_ids: frozenset[int]
    """The target's end tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model group's model, and how each of its ranks runs it."""

    role: str
    """"target" or "drafter"; names the group in errors."""
    directory: str | None = None
    """Checkpoint in Hugging Face format; None for virtual devices."""
    embedding_directory: str | None = None
    """The target's checkpoint, where `directory` is a trained drafter that shares its embedding."""
    known: tuple[NamedModel, ...] = ()
    """The names of these directories; a node that lacks one looks for its name."""
    lookups: LookupSettings = NO_LOOKUPS
    """What a drafter looks up in addition to its model."""
    prompt_window: int | None = None
    """Tokens of a prompt's end that a drafter's model reads; None: all of them."""
    constraints: ConstraintSettings | None = None
    """None: the model does not draft, or drafts without constraints."""
    layers: tuple[int, ...] | None = None
    """Keep only these layers of the checkpoint; None keeps all."""
    layer_parallel: LayerParallel | None = None
    """None: all ranks share the heads of each layer."""
    calibrates: bool = True
    """Whether approximate keys and values are read again by each draft's first step."""
    virtual: VirtualSpec | None = None
    weights: str = "auto"
    """How the matrices are held, one of `weight_choice.WEIGHTS`."""
    device: str = "cpu"
    num_threads: int = 1
    cache_tokens: int = 8192
    """Tokens the KV cache holds, all sequences together."""
    page_size: int = 16
    shares_prefixes: bool = True
    """Whether sequences share the cache pages of common prefixes, with earlier ones too."""
    num_spans: int = 0
    """Spans of work that rank 0 records for a timeline; 0 records none."""
    group_timeout_s: float = 20.0
    """How long a rank waits for another within one step."""
    step_limit_s: float = 30.0
    """A step that takes longer is logged, with the stacks of all threads."""

    @property
    def num_pages(self) -> int:
        """Pages of the cache."""
        return -(-self.cache_tokens // self.page_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderAddress:
    """Where the target's leader listens, and the secret that peers of one deployment share."""

    address: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterSlot:
    """How one drafter reaches its leader, and what the leader calls it."""

    leader: LeaderAddress | TorchLinkSpec
    name: str
    joins: bool = False
    """Whether it drafts beside the attached drafters; otherwise it replaces them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderSettings:
    """What only rank 0 of the target needs."""

    limits: EngineConfig
    draft_wait_s: float
    """Longest wait for a draft before the round continues without it."""
    max_draft_length: int = 16
    tokenizer_directory: str | None = None
    """Needed for stop strings."""
    link_port: int = 0
    """Port that links to the leader arrive at; 0 is any free port."""
    monitors: tuple[str, ...] = ()
    """module:function of each monitor that requests may name."""
