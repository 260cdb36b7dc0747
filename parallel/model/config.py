"""What a decoder-only model is made of, read from its Hugging Face configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
_MISTRAL_WINDOW = 4096  # what transformers takes where config.json says nothing
ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


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
    rms_norm_eps: float
    rope: RopeConfig
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

    @classmethod
    def from_hf(cls, config: Mapping[str, object]) -> "ModelConfig":
        """Read a config.json.

        Raises:
            ValueError: the architecture, or a feature of it, is not supported; names it.
        """
        kind = config.get("model_type")
        if kind not in SUPPORTED:
            raise ValueError(
                f"architecture {kind!r} is not supported; these are: {', '.join(SUPPORTED)}"
            )
        if config.get("quantization_config"):
            raise ValueError("quantised weights (quantization_config) are not supported")
        if config.get("hidden_act", "silu") != "silu":
            raise ValueError(f"activation {config['hidden_act']!r} is not supported; silu is")
        num_heads = _int(config, "num_attention_heads")
        hidden_size = _int(config, "hidden_size")
        num_kv_heads = _int(config, "num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} query heads do not share {num_kv_heads} kv heads evenly")
        has_bias = bool(config.get("attention_bias", False)) and kind in ("llama", "qwen3")
        return cls(
            model_type=str(kind),
            vocab_size=_int(config, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_int(config, "intermediate_size"),
            num_layers=_int(config, "num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=_int(config, "head_dim", hidden_size // num_heads),
            max_positions=_int(config, "max_position_embeddings"),
            rms_norm_eps=_float(config, "rms_norm_eps", 1e-6),
            rope=_rope(config),
            qkv_bias=has_bias or kind == "qwen2",
            output_bias=has_bias,
            mlp_bias=bool(config.get("mlp_bias", False)) and kind == "llama",
            qk_norm=kind == "qwen3",
            tied_head=bool(config.get("tie_word_embeddings", False)),
            sliding_window=_sliding_window(config),
        )


def _rope(config: Mapping[str, object]) -> RopeConfig:
    """Read `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before)."""
    parameters: dict[str, object] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given = config.get(name)
        if isinstance(given, Mapping):
            parameters |= given
    theta = _float(parameters, "rope_theta", _float(config, "rope_theta", 10000.0))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise ValueError(f"RoPE scaling {kind!r} is not supported; {', '.join(ROPE_KINDS)} are")
    if _float(parameters, "partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("partial rotary embeddings are not supported")
    factor = _float(parameters, "factor", 1.0)
    positions = _int(config, "max_position_embeddings")
    return RopeConfig(
        theta=theta,
        kind=str(kind),
        factor=factor,
        original_positions=_int(parameters, "original_max_position_embeddings", positions),
        low_freq_factor=_float(parameters, "low_freq_factor", 1.0),
        high_freq_factor=_float(parameters, "high_freq_factor", 4.0),
        beta_fast=_float(parameters, "beta_fast", 32.0),
        beta_slow=_float(parameters, "beta_slow", 1.0),
        truncate=bool(parameters.get("truncate", True)),
        attention_factor=_attention_factor(parameters, factor) if kind == "yarn" else 1.0,
    )


def _attention_factor(parameters: Mapping[str, object], factor: float) -> float:
    """Return yarn's temperature (Peng et al., arXiv 2309.00071, section 3.4)."""
    if parameters.get("attention_factor") is not None:
        return _float(parameters, "attention_factor", 1.0)

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        whole = scale(_float(parameters, "mscale_all_dim", 1.0))
        return scale(_float(parameters, "mscale", 1.0)) / whole
    return scale(1.0)


def _sliding_window(config: Mapping[str, object]) -> int | None:
    if config.get("model_type") == "mistral":
        window = config.get("sliding_window", _MISTRAL_WINDOW)
        return window if isinstance(window, int) else None
    if config.get("use_sliding_window") and config.get("sliding_window"):
        raise ValueError(
            "sliding windows on some layers only (use_sliding_window) are not supported"
        )
    return None


def _int(config: Mapping[str, object], name: str, default: int | None = None) -> int:
    value = config.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}: expected a positive whole number")
    return value


def _float(config: Mapping[str, object], name: str, default: float) -> float:
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}: expected a number")
    return float(value)
