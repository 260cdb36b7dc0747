"""Fills a decoder from the safetensors of a checkpoint; each rank reads only its slices."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from parallel.group import Group
from parallel.model.config import ModelConfig
from parallel.model.shapes import tensor_shapes
from parallel.model.transformer import Decoder
from runtime.errors import ConfigError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def read_model_config(directory: Path) -> ModelConfig:
    """Read and check a checkpoint's config.json.

    Raises:
        ConfigError: it is missing, no JSON, or of a model that is not supported.
    """
    file = directory / "config.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ConfigError(f"{file} holds no JSON object")
        return ModelConfig.from_hf(fields)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{directory} has no config.json: is it a checkpoint in Hugging Face format?"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is not valid JSON: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error


def weight_files(directory: Path) -> dict[str, Path]:
    """Return the file of each tensor of a checkpoint, after a look at every file's header.

    Raises:
        ConfigError: files are missing, truncated or corrupt.
    """
    index, single = directory / _INDEX, directory / _SINGLE
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            files = [directory / name for name in sorted(names)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{index} is no index of safetensors: {error}") from error
    elif single.is_file():
        files = [single]
    else:
        raise ConfigError(
            f"{directory} has neither {_SINGLE} nor {_INDEX}: convert its weights to safetensors"
        )
    return {name: file for file in files for name in _tensor_names(file)}


def _tensor_names(file: Path) -> list[str]:
    if not file.is_file():
        raise ConfigError(f"weight file {file} is missing: download the checkpoint again")
    try:
        with safe_open(str(file), framework="pt") as handle:  # compares header and file size
            return list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"weight file {file} is truncated or corrupt ({error}): download it again"
        ) from error


def check_checkpoint(directory: Path, layers: tuple[int, ...] | None = None) -> ModelConfig:
    """Check a checkpoint by its configuration and the headers of its files; reads no weights.

    Raises:
        ConfigError: it is not whole, not supported, or its tensors are not what config.json says.
    """
    config = read_model_config(directory)
    _check_shapes(CheckpointSource(directory, torch.float32, torch.device("cpu")), config, layers)
    return config


def _check_shapes(
    source: "CheckpointSource", config: ModelConfig, layers: tuple[int, ...] | None
) -> None:
    for name, wanted in tensor_shapes(config, layers).items():
        found = source.shape(name)
        if found != wanted:
            raise ConfigError(
                f"{name} of {source.directory} has the shape {list(found)}, its config.json asks "
                f"for {list(wanted)}: do both belong to the same model?"
            )


class CheckpointSource:
    """The tensors of a checkpoint, read by name and slice."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.directory = directory
        self._files = weight_files(directory)
        self._handles: dict[Path, Any] = {}
        self._dtype = dtype
        self._device = device

    def read(self, name: str) -> Tensor:
        """Return a whole tensor."""
        return self._place(self._slice(name)[:])

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        """Return a stretch of a tensor's rows (dim 0) or columns (dim 1)."""
        whole = self._slice(name)
        return self._place(whole[first:stop] if dim == 0 else whole[:, first:stop])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, from the file's header.

        Raises:
            ConfigError: there is no such tensor.
        """
        return tuple(self._slice(name).get_shape())

    def _slice(self, name: str) -> Any:
        file = self._files.get(name)
        if file is None:
            raise ConfigError(
                f"{self.directory} has no tensor {name!r}: the checkpoint is not whole, or its "
                "config.json belongs to another model"
            )
        if file not in self._handles:
            self._handles[file] = safe_open(str(file), framework="pt")
        return self._handles[file].get_slice(name)

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self._device, dtype=self._dtype).contiguous()


def load_decoder(
    directory: Path,
    group: Group,
    *,
    dtype: torch.dtype,
    device: torch.device,
    layers: tuple[int, ...] | None = None,
    layer_parallel_from: int | None = None,
) -> Decoder:
    """Build this rank's shard of a checkpoint's model.

    Raises:
        ConfigError: the checkpoint cannot be used, or splits over fewer ranks than there are.
    """
    config = read_model_config(directory)
    source = CheckpointSource(directory, dtype, device)
    _check_shapes(source, config, layers)
    try:
        return Decoder(
            config,
            source,
            group,
            layers=layers,
            layer_parallel_from=layer_parallel_from,
            device=device,
        )
    except ValueError as error:
        raise ConfigError(f"{directory}: {error}") from error
