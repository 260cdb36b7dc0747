"""Gemma 3, text only: local and global layers, norms before and after each block, GeGLU.

GGUF files are read as llama.cpp's loader of the architecture gemma3 does.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from parallel.model.model_config import (
    Activation,
    AttentionKind,
    LayerNorms,
    LocalLayers,
    ModelConfig,
    RopeConfig,
)
from runtime.models.families.family import (
    ConfigDefaults,
    ConfigJson,
    GgufFormat,
    ModelFamily,
)
from runtime.models.families.fields import Fields
from runtime.models.families.hf_rope import parse_rope
from runtime.models.families.layer_types import FULL, SLIDING, read_layer_types

_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0
_WINDOW, _PATTERN, _SCALAR = 4096, 6, 256  # transformers' defaults
_MAX_POSITIONS = 131072
_NUM_LAYERS_27B = 62
"""The number of layers by which llama.cpp recognizes the one model with another scale."""


def _global_rope(fields: Fields, positions: int) -> RopeConfig:
    """Return the rotary settings of global layers.

    transformers 5 lists them by type of layer; before, `rope_theta` and `rope_scaling` were those
    of global layers.
    """
    by_type = _rope_by_type(fields)
    if not by_type:
        old = {name: fields.get(name) for name in ("rope_theta", "rope_scaling")}
        given: dict[str, object] = {k: v for k, v in old.items() if v is not None}
        given.setdefault("rope_theta", _GLOBAL_THETA)
        return parse_rope(Fields(given), positions)
    top = fields.get("rope_theta")
    own = _rope_of(by_type, FULL, _GLOBAL_THETA if top is None else top)
    if top is not None and top != own["rope_theta"]:
        raise ValueError(f"rope_theta is {top}, and {own['rope_theta']} in rope_parameters.{FULL}")
    if fields.get("rope_scaling") is not None:
        raise ValueError("both rope_scaling and rope_parameters are given: remove one of them")
    return parse_rope(Fields({"rope_parameters": own}), positions)


def _local_rope(fields: Fields, positions: int) -> RopeConfig:
    """Return the rotary settings of local layers, which the old spelling never scales."""
    by_type = _rope_by_type(fields)
    top = fields.get("rope_local_base_freq")
    own = _rope_of(by_type, SLIDING, _LOCAL_THETA if top is None else top)
    if top is not None and top != own["rope_theta"]:
        raise ValueError(
            f"rope_local_base_freq is {top}, and {own['rope_theta']} in rope_parameters.{SLIDING}"
        )
    rope = parse_rope(Fields({"rope_parameters": own}), positions)
    if rope.kind == "dynamic":
        raise ValueError(f"rope_parameters.{SLIDING} is dynamic, which is not supported")
    return rope


def _rope_by_type(fields: Fields) -> Mapping[str, object]:
    by_type = fields.mapping("rope_parameters")
    unknown = sorted(by_type.keys() - {FULL, SLIDING})
    if unknown:
        raise ValueError(
            f"rope_parameters.{unknown[0]} is {by_type[unknown[0]]!r}: expected settings for "
            f"{FULL} and {SLIDING}"
        )
    return by_type


def _rope_of(by_type: Mapping[str, object], kind: str, theta: object) -> dict[str, object]:
    """Return the settings of a type of layer, with `theta` as the default base."""
    return {"rope_theta": theta} | dict(Fields(by_type).mapping(kind))


def _complete(config: ModelConfig, fields: Fields) -> ModelConfig:
    if fields.get("attn_logit_softcapping") is not None:
        raise ValueError(
            f"attn_logit_softcapping is {fields.get('attn_logit_softcapping')!r}, which "
            "transformers does not apply in Gemma 3 models: set it to null"
        )
    has_bias = fields.flag("attention_bias")
    is_capped = fields.get("final_logit_softcapping") is not None
    return replace(
        config,
        qkv_bias=has_bias,
        output_bias=has_bias,
        qk_norm=True,
        norms=LayerNorms(
            after_attention="post_attention_layernorm",
            before_mlp="pre_feedforward_layernorm",
            after_mlp="post_feedforward_layernorm",
            adds_one=True,
        ),
        embedding_scale=config.hidden_size**0.5,
        # The stated context is the one after scaling.
        max_positions=fields.whole("max_position_embeddings", _MAX_POSITIONS),
        attention_scale=fields.number("query_pre_attn_scalar", _SCALAR) ** -0.5,
        logit_cap=fields.number("final_logit_softcapping") if is_capped else None,
        local_layers=_local_layers(fields, config),
    )


def _local_layers(fields: Fields, config: ModelConfig) -> LocalLayers | None:
    types = _types(fields, config.num_layers)
    rope = _local_rope(fields, config.rope.original_positions)
    local = frozenset(layer for layer, name in enumerate(types) if name == SLIDING)
    has_window = not fields.states("sliding_window") or fields.get("sliding_window") is not None
    if local and not has_window:
        raise ValueError("sliding_window is null, but layers are of the type sliding_attention")
    window = fields.whole("sliding_window", _WINDOW)
    if not local:
        return None
    return LocalLayers(layers=local, attention=AttentionKind(rope=rope, window=window))


def _types(fields: Fields, num_layers: int) -> tuple[object, ...]:
    """Return the type of each layer; by default, every sixth one is global."""
    pattern = fields.whole("sliding_window_pattern", _PATTERN)
    listed = read_layer_types(fields, num_layers)
    unknown = [name for name in listed if name not in (FULL, SLIDING)]
    if unknown:
        raise ValueError(f"layer_types has {unknown[0]!r}: {FULL} and {SLIDING} are supported")
    derived = tuple(FULL if (i + 1) % pattern == 0 else SLIDING for i in range(num_layers))
    return listed or derived


def _settings(fields: Fields, common: ConfigJson, tensor_names: frozenset[str]) -> ConfigJson:  # noqa: ARG001
    """Return the settings that llama.cpp reads or fixes for the architecture."""
    num_layers = fields.whole("block_count")
    window = fields.get("attention.sliding_window") or None
    pattern = fields.whole("attention.sliding_window_pattern", _PATTERN)
    local_theta = fields.number("rope.freq_base_swa", _LOCAL_THETA)
    cap = fields.get("final_logit_softcapping") or None
    if window is not None and cap is not None:
        raise ValueError(
            f"final_logit_softcapping is {cap} beside a sliding window, where llama.cpp does not "
            "apply it"
        )
    rope = common["rope_parameters"]
    assert isinstance(rope, Mapping)
    if rope["rope_type"] == "yarn":
        raise ValueError("rope.scaling.type is 'yarn', which is not supported for gemma3")
    hidden_size, num_heads = fields.whole("embedding_length"), fields.whole("attention.head_count")
    is_27b = num_layers == _NUM_LAYERS_27B
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": hidden_size // num_heads if is_27b else common["head_dim"],
        "final_logit_softcapping": cap,
        "sliding_window": window,
        "layer_types": [
            FULL if window is None or (layer + 1) % pattern == 0 else SLIDING
            for layer in range(num_layers)
        ],
        "rope_parameters": {
            FULL: dict(rope),
            SLIDING: {"rope_type": "default", "rope_theta": local_theta},
        },
    }


def _without_one(name: str, vector: Tensor) -> Tensor:
    """Subtract the 1 that llama.cpp's converter adds to the weights of norms."""
    return vector - 1 if name.endswith("norm.weight") else vector


FAMILY = ModelFamily(
    model_type="gemma3_text",
    causal_class="Gemma3ForCausalLM",
    defaults=ConfigDefaults(
        max_positions=_MAX_POSITIONS, num_kv_heads=4, head_dim=256, tied_head=True
    ),
    activation=Activation.GELU_TANH,
    activation_key="hidden_activation",
    rope=_global_rope,
    complete=_complete,
    harmless={
        "_sliding_window_pattern": "a note of transformers, which reads layer_types",
        "cache_implementation": "selects how the same keys and values are stored",
    },
    gguf=GgufFormat(
        architecture="gemma3",
        modules={
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        settings=_settings,
        restore=_without_one,
    ),
    unsupported={"gemma3": "it also reads images: take a gemma3_text model"},
)
