"""Mistral: a Llama whose layers all attend over the same window. Its GGUF files are Llama's."""

from dataclasses import replace

from parallel.model.model_config import ModelConfig
from runtime.models.families.family import ConfigDefaults, ModelFamily
from runtime.models.families.fields import Fields
from runtime.models.families.layer_types import FULL, SLIDING, read_layer_types

_WINDOW = 4096  # transformers' default


def _complete(config: ModelConfig, fields: Fields) -> ModelConfig:
    types = read_layer_types(fields, config.num_layers)
    if fields.states("sliding_window") and fields.get("sliding_window") is None:
        window = None
    else:
        window = fields.whole("sliding_window", _WINDOW)
    if any(name != (FULL if window is None else SLIDING) for name in types):
        raise ValueError(f"layer_types is {types!r}, but sliding_window is {window}")
    if window is not None and not fields.flag("use_sliding_window", default=True):
        raise ValueError(
            f"use_sliding_window is False, but sliding_window is {window}: set it to null for "
            "attention over all positions"
        )
    return replace(config, sliding_window=window)


FAMILY = ModelFamily(
    model_type="mistral",
    causal_class="MistralForCausalLM",
    defaults=ConfigDefaults(max_positions=131072, num_kv_heads=8),
    complete=_complete,
)
