"""Reads a config.json as transformers 5 does, and refuses what this decoder cannot compute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parallel.model.model_config import ModelConfig
from runtime.models.config_keys import check_unread
from runtime.models.fields import Fields
from runtime.models.hf_rope import context_length, parse_rope


@dataclass(frozen=True, slots=True)
class _Family:
    """What transformers' configuration class of a family takes where config.json says nothing."""

    max_positions: int
    num_kv_heads: int | None
    """None: as many as query heads."""
    head_dim: int | None = None
    """None: the hidden size over the query heads."""


_FAMILIES = {
    "llama": _Family(2048, None),
    "mistral": _Family(131072, 8),
    "qwen2": _Family(32768, 32),
    "qwen3": _Family(32768, 32, 128),
}
_MISTRAL_WINDOW = 4096  # what transformers takes where config.json says nothing
_SILU = ("silu", "swish")  # transformers' two names of it
_FULL, _SLIDING = "full_attention", "sliding_attention"


def parse_config(config: Mapping[str, object]) -> ModelConfig:
    """Return what a config.json describes.

    Raises:
        ValueError: the architecture, a key or a value is not supported; names it.
    """
    fields = Fields(config)
    kind = _kind(fields)
    family = _FAMILIES[kind]
    _check_fixed(fields, kind)
    num_heads, hidden_size = fields.whole("num_attention_heads"), fields.whole("hidden_size")
    kv_default = family.num_kv_heads if not fields.states("num_key_value_heads") else None
    num_kv_heads = fields.whole("num_key_value_heads", kv_default or num_heads)
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads} query heads do not share {num_kv_heads} kv heads evenly")
    head_dim = fields.whole("head_dim", family.head_dim or hidden_size // num_heads)
    if head_dim % 2:
        raise ValueError(f"head_dim is {head_dim}: rotary embeddings need an even number")
    positions = fields.whole("max_position_embeddings", family.max_positions)
    num_layers = fields.whole("num_hidden_layers")
    rope = parse_rope(fields, positions)
    has_bias = fields.flag("attention_bias") if kind in ("llama", "qwen2", "qwen3") else False
    if kind == "qwen2":
        has_bias = False  # transformers does not read it there: queries, keys and values have one
    read = ModelConfig(
        model_type=kind,
        vocab_size=fields.whole("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.whole("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=context_length(rope, positions),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope,
        qkv_bias=has_bias or kind == "qwen2",
        output_bias=has_bias,
        mlp_bias=kind == "llama" and fields.flag("mlp_bias"),
        qk_norm=kind == "qwen3",
        tied_head=fields.flag("tie_word_embeddings"),
        sliding_window=_sliding_window(fields, kind, num_layers),
    )
    check_unread(fields.unread())
    return read


def _kind(fields: Fields) -> str:
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise ValueError(
            f"architecture {kind!r} is not supported; these are: {', '.join(_FAMILIES)}"
        )
    classes = fields.get("architectures")
    if classes is None:
        return kind
    wanted = f"{kind}ForCausalLM"
    names = classes if isinstance(classes, list) else [classes]
    if not names or any(str(name).casefold() != wanted.casefold() for name in names):
        raise ValueError(
            f"architectures is {classes!r}: a {kind} model that predicts the next token is "
            f"['{kind.capitalize()}ForCausalLM']"
        )
    return kind


def _check_fixed(fields: Fields, kind: str) -> None:
    """Refuse quantized weights, custom code and other activations."""
    if fields.get("quantization_config"):
        raise ValueError(
            "quantised weights (quantization_config) are not supported: take the checkpoint in "
            "float32, bfloat16 or float16"
        )
    if fields.get("auto_map"):
        raise ValueError(
            f"auto_map is {fields.get('auto_map')!r}: code that comes with a model is not run; if "
            f"it computes what transformers' own {kind} computes, remove the key"
        )
    activation = fields.get("hidden_act")
    if activation is not None and activation not in _SILU:
        raise ValueError(f"activation {activation!r} (hidden_act) is not supported; silu is")


def _sliding_window(fields: Fields, kind: str, num_layers: int) -> int | None:
    """Return the window of every layer; None is all positions."""
    types = _layer_types(fields, num_layers)
    if kind == "mistral":
        return _mistral_window(fields, types)
    if kind == "llama":
        if fields.get("sliding_window") is not None:
            raise ValueError(
                f"sliding_window is {fields.get('sliding_window')!r}, which a llama model does "
                "not have: set it to null"
            )
    elif not types:
        types = _qwen_layer_types(fields, num_layers)
    if any(name != _FULL for name in types):
        raise ValueError(
            "sliding windows on some layers only (use_sliding_window, layer_types) are not "
            f"supported: the layers are {list(types)}"
        )
    return None


def _mistral_window(fields: Fields, types: Sequence[object]) -> int | None:
    if fields.states("sliding_window") and fields.get("sliding_window") is None:
        window = None
    else:
        window = fields.whole("sliding_window", _MISTRAL_WINDOW)
    wanted = _FULL if window is None else _SLIDING
    if any(name != wanted for name in types):
        raise ValueError(f"layer_types is {types!r}, but sliding_window is {window}")
    if window is not None and not fields.flag("use_sliding_window", default=True):
        raise ValueError(
            f"use_sliding_window is False, but sliding_window is {window}: set it to null for "
            "attention over all positions"
        )
    return window


def _qwen_layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """Return what transformers makes of a configuration that does not list the layers."""
    given = fields.get("sliding_window")
    has_window = given is not None or not fields.states("sliding_window")
    first = 28 if fields.get("max_window_layers") is None else fields.get("max_window_layers")
    if not isinstance(first, int) or first < 0:
        raise ValueError(f"max_window_layers is {first!r}: expected a number of layers")
    if not (fields.flag("use_sliding_window") and has_window):
        first = num_layers
    return tuple(_FULL if layer < first else _SLIDING for layer in range(num_layers))


def _layer_types(fields: Fields, num_layers: int) -> tuple[object, ...]:
    types = fields.get("layer_types")
    if types is None:
        return ()
    if not isinstance(types, list) or len(types) != num_layers:
        raise ValueError(f"layer_types is {types!r}: expected one entry for each of {num_layers}")
    return tuple(types)
