"""Llama, and models of its architecture: SmolLM2, TinyLlama, Vicuna ..."""

from dataclasses import replace

import torch
from torch import Tensor

from parallel.model.model_config import ModelConfig
from runtime.models.families.family import (
    ConfigDefaults,
    ConfigJson,
    GgufFormat,
    ModelFamily,
)
from runtime.models.families.fields import Fields
from runtime.models.families.layer_types import read_layer_types, reject_windows


def _complete(config: ModelConfig, fields: Fields) -> ModelConfig:
    types = read_layer_types(fields, config.num_layers)
    if fields.get("sliding_window") is not None:
        raise ValueError(
            f"sliding_window is {fields.get('sliding_window')!r}, which a llama model does not "
            "have: set it to null"
        )
    reject_windows(types)
    has_bias = fields.flag("attention_bias")
    return replace(
        config, qkv_bias=has_bias, output_bias=has_bias, mlp_bias=fields.flag("mlp_bias")
    )


def _settings(fields: Fields, common: ConfigJson, tensor_names: frozenset[str]) -> ConfigJson:  # noqa: ARG001
    return {
        "attention_bias": _has_bias(tensor_names, ".attn_"),
        "mlp_bias": _has_bias(tensor_names, ".ffn_"),
    }


def _has_bias(names: frozenset[str], part: str) -> bool:
    return any(name.endswith(".bias") and part in name for name in names)


def _halves_rotated(name: str, num_rows: int, config: ConfigJson) -> Tensor | None:
    """Return the order of query and key rows that rotates halves, not pairs.

    Files of the llama architecture store them interleaved, for llama.cpp's rotary kernel.
    """
    module = name.rpartition(".")[0]
    if not module.endswith(("q_proj", "k_proj")):
        return None
    heads = config["num_attention_heads" if module.endswith("q_proj") else "num_key_value_heads"]
    assert isinstance(heads, int)
    if num_rows % (2 * heads):
        raise ValueError(f"{name} has {num_rows} rows for {heads} heads")
    paired = torch.arange(num_rows).reshape(heads, num_rows // heads // 2, 2)
    return paired.transpose(1, 2).flatten()


FAMILY = ModelFamily(
    model_type="llama",
    causal_class="LlamaForCausalLM",
    defaults=ConfigDefaults(max_positions=2048),
    complete=_complete,
    gguf=GgufFormat(
        architecture="llama", settings=_settings, row_order=_halves_rotated, has_rope_freqs=True
    ),
)
