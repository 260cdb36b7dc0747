"""Qwen2 and Qwen2.5: biases on queries, keys and values."""

from dataclasses import replace

from parallel.model.model_config import ModelConfig
from runtime.models.families.family import ConfigDefaults, GgufFormat, ModelFamily
from runtime.models.families.fields import Fields
from runtime.models.families.layer_types import qwen_layer_types, reject_windows


def _complete(config: ModelConfig, fields: Fields) -> ModelConfig:
    reject_windows(qwen_layer_types(fields, config.num_layers))
    fields.flag("attention_bias")  # transformers does not read it for this family
    return replace(config, qkv_bias=True)


FAMILY = ModelFamily(
    model_type="qwen2",
    causal_class="Qwen2ForCausalLM",
    defaults=ConfigDefaults(max_positions=32768, num_kv_heads=32),
    complete=_complete,
    gguf=GgufFormat(architecture="qwen2"),
)
