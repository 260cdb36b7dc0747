"""Read the configuration and the tensor index of a directory in Hugging Face format.

Generation, drafters, node probes and training all read models here, so they agree on what a model
is.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from parallel.model.model_config import ModelConfig
from parallel.model.shapes import tensor_shapes
from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_object
from runtime.models.hf_config import parse_config
from runtime.weights.stored_tensors import QUANTIZATION_CONFIG, TensorEntry
from runtime.weights.tensors import check_tensors, read_tensor_index

_ADAPTER = "adapter_config.json"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """A checkpoint with a supported configuration and all its tensors."""

    directory: Path
    config: ModelConfig
    tensors: Mapping[str, TensorEntry]


def read_checkpoint(directory: Path) -> CheckpointFiles:
    """Read a checkpoint's configuration and the headers of its weights; reads no weights.

    Raises:
        ConfigError: something is missing, damaged, inconsistent or not supported; names it.
    """
    config = read_model_config(directory)
    tensors = read_tensor_index(directory)
    if config.tied_head and HEAD in tensors:
        # transformers 5 ties only equal tensors, so a separate head is used whatever is stated.
        config = replace(config, tied_head=False)
    check_tensors(directory, tensors, tensor_shapes(config))
    check_stated_layout(directory, tensors)
    return CheckpointFiles(directory=directory, config=config, tensors=tensors)


def check_stated_layout(directory: Path, tensors: Mapping[str, TensorEntry]) -> None:
    """Check that config.json states the layout of matrices in integer codes, if there are any.

    Raises:
        ConfigError: config.json and the weights disagree.
    """
    stored = next((name for name, entry in tensors.items() if entry.form is not None), None)
    if bool(read_config_json(directory).get("quantization_config")) == (stored is not None):
        return
    if stored is None:
        raise ConfigError(
            f"{directory / 'config.json'} states quantized weights (quantization_config), but no "
            "matrix of its files is: take both from the same directory"
        )
    raise ConfigError(
        f"{tensors[stored].file} holds {stored} in integer codes, which {directory}/config.json "
        f"does not state as quantization_config {dict(QUANTIZATION_CONFIG)}: take both from the "
        "same directory"
    )


def read_model_config(directory: Path) -> ModelConfig:
    """Read and check a config.json.

    Raises:
        ConfigError: it is missing, not JSON, or of a model that is not supported.
    """
    fields = read_config_json(directory)
    try:
        return parse_config(fields)
    except ValueError as error:
        raise ConfigError(f"{directory / 'config.json'}: {error}") from error


def read_config_json(directory: Path) -> dict[str, object]:
    """Return the fields of a config.json.

    Raises:
        ConfigError: it is missing or not a JSON object, or the directory holds an adapter.
    """
    file = directory / "config.json"
    if (directory / _ADAPTER).is_file():
        raise ConfigError(
            f"{directory} holds an adapter ({_ADAPTER}), not a model: merge it into its "
            "model, and use the result"
        )
    if not os.path.lexists(file):
        raise ConfigError(
            f"{directory} has no config.json: is it a checkpoint in Hugging Face format?"
        )
    return read_json_object(file)
