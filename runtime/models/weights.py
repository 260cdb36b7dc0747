"""Load a decoder from the safetensors of a checkpoint; each rank reads only its slices."""

from pathlib import Path

import torch

from parallel.device_kernels.kernel_loader import KernelsMissing
from parallel.group import Group
from parallel.model.transformer import Decoder
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint
from runtime.weights.checkpoint_source import CheckpointSource


def load_decoder(
    directory: Path,
    group: Group,
    *,
    weights: str,
    device: torch.device,
    layers: tuple[int, ...] | None = None,
    layer_parallel_from: int | None = None,
) -> Decoder:
    """Build this rank's shard of a checkpoint's model.

    Raises:
        ConfigError: the checkpoint cannot be used, or splits over fewer ranks than there are.
    """
    files = read_checkpoint(directory)
    source = CheckpointSource(directory, weights, device, tensors=files.tensors)
    try:
        return Decoder(
            files.config,
            source,
            group,
            layers=layers,
            layer_parallel_from=layer_parallel_from,
            device=device,
        )
    except (ValueError, KernelsMissing) as error:
        raise ConfigError(f"{directory}: {error}") from error
