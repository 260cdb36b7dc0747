"""Fills a decoder from the safetensors of a checkpoint; each rank reads only its slices."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from parallel.group import Group
from parallel.model.config import ModelConfig
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
        return ModelConfig.from_hf(fields)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{directory} has no config.json: is it a checkpoint in Hugging Face format?"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is not valid JSON: {error}") from error
    except (ValueError, AttributeError) as error:
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
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{index} is no index of safetensors: {error}") from error
        files = [directory / name for name in sorted(names)]
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


class CheckpointSource:
    """The tensors of a checkpoint, read by name and slice."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._directory = directory
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
        size = whole.get_shape()[dim]
        if stop > size:
            raise ConfigError(
                f"{name} of {self._directory} has {size} entries in dimension {dim}, "
                f"its config.json asks for {stop}"
            )
        part = whole[first:stop] if dim == 0 else whole[:, first:stop]
        return self._place(part)

    def _slice(self, name: str) -> Any:
        file = self._files.get(name)
        if file is None:
            raise ConfigError(
                f"{self._directory} has no tensor {name!r}: the checkpoint is not whole"
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
) -> Decoder:
    """Build this rank's shard of a checkpoint's model.

    Raises:
        ConfigError: the checkpoint cannot be used, or splits over fewer ranks than there are.
    """
    config = read_model_config(directory)
    source = CheckpointSource(directory, dtype, device)
    try:
        return Decoder(config, source, group, layers=layers, device=device)
    except ValueError as error:
        raise ConfigError(f"{directory}: {error}") from error
