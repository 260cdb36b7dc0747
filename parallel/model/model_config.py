"""The configuration of a decoder-only model."""

from dataclasses import MISSING, dataclass, fields
from enum import StrEnum

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


class Activation(StrEnum):
    """What the gate of a feed-forward block passes through."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"
    """GELU by its tanh approximation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding and its scaling beyond the trained length."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_positions: int = 0
    """Context length of the original training; used by llama3 and yarn."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    """Scale of cosine and sine; used by yarn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorms:
    """Where a layer has norms, by the names of their tensors, and what their weights mean."""

    before_attention: str = "input_layernorm"
    after_attention: str | None = None
    """Applied to what attention adds to the residual stream."""
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str | None = None
    """Applied to what the feed-forward block adds to the residual stream."""
    adds_one: bool = False
    """Whether every norm of the model, the last one and those of queries and keys too, multiplies
    by 1 + weight."""

    @property
    def names(self) -> list[str]:
        """The norms that a layer has."""
        places = (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        return [name for name in places if name is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKind:
    """What the attention of some layers has in common."""

    rope: RopeConfig
    window: int | None
    """Positions that attention looks back over; None is all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLayers:
    """Layers whose attention is of another kind than that of the rest."""

    layers: frozenset[int]
    attention: AttentionKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder: a Llama's, and the features in which a family differs from it."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    """The context: prompt and output together."""
    rms_norm_eps: float
    rope: RopeConfig
    activation: Activation = Activation.SILU
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False
    sliding_window: int | None = None
    """Positions that attention looks back over; None is all."""
    local_layers: LocalLayers | None = None
    """Layers with another window and other rotary settings than `sliding_window` and `rope`."""
    norms: LayerNorms = LayerNorms()
    embedding_scale: float = 1.0
    """Factor of the embeddings, where they enter the first layer."""
    attention_scale: float | None = None
    """Factor of the attention scores; None is 1 / sqrt(head_dim)."""
    logit_cap: float | None = None
    """Bound of the logits: each becomes cap * tanh(logit / cap)."""

    @property
    def features(self) -> frozenset[str]:
        """The fields in which the model differs from a plain Llama."""
        return frozenset(
            field.name
            for field in fields(self)
            if field.default is not MISSING and getattr(self, field.name) != field.default
        )

    @property
    def attention_kinds(self) -> tuple[AttentionKind, ...]:
        """The kinds of attention in the model, in the order that `kind_of` counts them."""
        usual = AttentionKind(rope=self.rope, window=self.sliding_window)
        return (usual,) if self.local_layers is None else (usual, self.local_layers.attention)

    def kind_of(self, layer: int) -> int:
        """Return which of the kinds of attention a layer has."""
        return int(self.local_layers is not None and layer in self.local_layers.layers)

    def cache_values_per_token(self, num_layers: int | None = None) -> int:
        """Return the number of values per token in the KV cache, over all kv heads."""
        layers = self.num_layers if num_layers is None else num_layers
        return 2 * layers * self.num_kv_heads * self.head_dim
