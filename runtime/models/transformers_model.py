"""A checkpoint as transformers loads it, which cannot read matrices in integer codes itself."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from runtime.models.checkpoint_files import CheckpointFiles, read_checkpoint
from runtime.weights.checkpoint_source import CheckpointSource

_CPU = torch.device("cpu")


def load_transformers(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return transformers' model of a checkpoint; matrices in integer codes are dequantized.

    Raises:
        ConfigError: generation would reject it; transformers itself ignores much silently.
    """
    files = read_checkpoint(directory)
    if all(entry.form is None for entry in files.tensors.values()):
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    config = transformers_config(directory)
    model: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
        None, config=config, state_dict=read_floats(files), dtype=dtype
    )
    return model


def transformers_config(directory: Path) -> PretrainedConfig:
    """Return a checkpoint's configuration without the layout of its matrices."""
    config: PretrainedConfig = AutoConfig.from_pretrained(directory)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def read_floats(files: CheckpointFiles) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint's files in float32, by name."""
    source = CheckpointSource(files.directory, "float32", _CPU, tensors=files.tensors)
    return {name: source.read(name) for name in files.tensors}
