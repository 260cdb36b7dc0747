"""Qwen3: normalized queries and keys."""

from dataclasses import replace

from parallel.model.model_config import ModelConfig
from runtime.models.families.family import ConfigDefaults, ConfigJson, GgufFormat, ModelFamily
from runtime.models.families.fields import Fields
from runtime.models.families.layer_types import qwen_layer_types, reject_windows


def _complete(config: ModelConfig, fields: Fields) -> ModelConfig:
    reject_windows(qwen_layer_types(fields, config.num_layers))
    has_bias = fields.flag("attention_bias")
    return replace(config, qkv_bias=has_bias, output_bias=has_bias, qk_norm=True)


def _settings(fields: Fields, common: ConfigJson, tensor_names: frozenset[str]) -> ConfigJson:  # noqa: ARG001
    has_bias = any(name.endswith(".bias") and ".attn_" in name for name in tensor_names)
    return {"attention_bias": has_bias}


FAMILY = ModelFamily(
    model_type="qwen3",
    causal_class="Qwen3ForCausalLM",
    defaults=ConfigDefaults(max_positions=32768, num_kv_heads=32, head_dim=128),
    complete=_complete,
    gguf=GgufFormat(architecture="qwen3", settings=_settings),
)
