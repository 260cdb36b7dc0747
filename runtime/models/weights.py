"""Load a decoder from the safetensors of a checkpoint; each rank reads only its slices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from parallel.group import Group
from parallel.model.transformer import Decoder
from parallel.weights.stored_matrix import Matrix
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint
from runtime.models.tensors import TensorEntry, read_tensor_index


class CheckpointSource:
    """Reads the tensors of a checkpoint by name and slice."""

    def __init__(
        self,
        directory: Path,
        dtype: torch.dtype,
        device: torch.device,
        *,
        tensors: Mapping[str, TensorEntry] | None = None,
    ) -> None:
        """Store where the tensors are; files are opened when they are first read.

        Args:
            directory: the checkpoint.
            dtype: the dtype of the returned tensors.
            device: the device of the returned tensors.
            tensors: the index of the files, if it is known already.
        """
        self.directory = directory
        self._tensors = read_tensor_index(directory) if tensors is None else tensors
        self._handles: dict[Path, Any] = {}
        self._dtype = dtype
        self._device = device

    def read(self, name: str) -> Tensor:
        """Return a whole tensor.

        Raises:
            ConfigError: there is no tensor of this name, or its numbers cannot be used.
        """
        return self._convert(name, self._slice(name)[:])

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        """Return some of a tensor's rows (dim 0) or columns (dim 1).

        Raises:
            ConfigError: as `read`.
        """
        whole = self._slice(name)
        return self._convert(name, whole[first:stop] if dim == 0 else whole[:, first:stop])

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        """Return some of a linear layer's rows (dim 0) or columns (dim 1), as they are to be held.

        Raises:
            ConfigError: as `read`.
        """
        return self.read_slice(name, dim, first, stop)

    def _slice(self, name: str) -> Any:
        entry = self._tensors.get(name)
        if entry is None:
            raise ConfigError(
                f"{self.directory} has no tensor {name!r}: the checkpoint is incomplete, or its "
                "config.json belongs to another model"
            )
        if entry.file not in self._handles:
            self._handles[entry.file] = safe_open(str(entry.file), framework="pt")
        return self._handles[entry.file].get_slice(name)

    def _convert(self, name: str, stored: Tensor) -> Tensor:
        converted = stored.to(device=self._device, dtype=self._dtype).contiguous()
        # The sum is finite in almost all cases, and needs no second tensor of the same size.
        if not converted.sum(dtype=torch.float32).isfinite() and not converted.isfinite().all():
            _reject_numbers(name, self._tensors[name].file, stored, self._dtype)
        return converted


def _reject_numbers(name: str, file: Path, stored: Tensor, dtype: torch.dtype) -> None:
    if not stored.isfinite().all():
        raise ConfigError(f"{name} in {file} holds numbers that are not finite: download it again")
    raise ConfigError(
        f"{name} in {file} holds {float(stored.abs().max()):.4g}, which does not fit dtype "
        f"{str(dtype).removeprefix('torch.')}: use bfloat16 or float32"
    )


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
    files = read_checkpoint(directory)
    source = CheckpointSource(directory, dtype, device, tensors=files.tensors)
    try:
        return Decoder(
            files.config,
            source,
            group,
            layers=layers,
            layer_parallel_from=layer_parallel_from,
            device=device,
        )
    except ValueError as error:
        raise ConfigError(f"{directory}: {error}") from error
