"""What a decoder-only model is made of."""

from dataclasses import dataclass
from enum import StrEnum

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


class Activation(StrEnum):
    """What the gate of a feed-forward block passes through."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"
    """GELU by its tanh approximation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding and how it is stretched beyond the trained length."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_positions: int = 0
    """Positions of the original training; read by llama3 and yarn."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    """Scale of cosine and sine; read by yarn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a Llama-family decoder."""

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

    def cache_values_per_token(self, num_layers: int | None = None) -> int:
        """Return how many numbers the KV cache holds for a token, over all kv heads."""
        layers = self.num_layers if num_layers is None else num_layers
        return 2 * layers * self.num_kv_heads * self.head_dim
