"""The facts about a checkpoint before any weight is read: configuration, size, splits."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from parallel.device_kernels.kernel_loader import KernelsMissing, check_kernels
from parallel.model.cache import cache_bytes
from parallel.model.model_config import ModelConfig
from parallel.model.shapes import tensor_shapes
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import EMBEDDING, read_checkpoint
from runtime.weights.stored_tensors import TensorEntry
from runtime.weights.weight_choice import choose_weights, held_bytes, is_held_in_codes

_LOG = logging.getLogger("paceline.models")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A checkpoint whose files are complete."""

    directory: Path
    config: ModelConfig

    tensors: Mapping[str, TensorEntry]
    """Where each tensor is that the model reads."""

    def weight_bytes(self, weights: str, device: str, layers: tuple[int, ...] | None = None) -> int:
        """Return the memory of the weights, held as `weights` on a device.

        A tied table of numbers is held twice, for look-up and head; one of codes, once.
        """
        choice = choose_weights(weights, device)
        held = {
            name: held_bytes(self.tensors[name], choice)
            for name in tensor_shapes(self.config, layers)
        }
        if self.config.tied_head and not is_held_in_codes(self.tensors[EMBEDDING], choice):
            return sum(held.values()) + held[EMBEDDING]
        return sum(held.values())

    def cache_bytes(
        self, weights: str, device: str, num_tokens: int, layers: tuple[int, ...] | None = None
    ) -> int:
        """Return the memory of a KV cache beside weights that are held as `weights`."""
        num_layers = None if layers is None else len(layers)
        values = self.config.cache_values_per_token(num_layers)
        return cache_bytes(values, num_tokens, choose_weights(weights, device).activations)


def read_facts(directory: Path) -> ModelFacts:
    """Read a checkpoint's configuration and the headers of its weight files.

    Raises:
        ConfigError: something is missing, damaged or not supported.
    """
    files = read_checkpoint(directory)
    config = files.config
    if config.rope.kind == "dynamic" and config.rope.factor > 1:
        _LOG.warning(
            "%s: the context ends at max_position_embeddings, %d tokens: dynamic RoPE scaling by "
            "%g is exact only up to there",
            directory / "config.json",
            config.max_positions,
            config.rope.factor,
        )
    return ModelFacts(directory=directory, config=config, tensors=files.tensors)


def check_tensor_parallel(facts: ModelFacts, size: int, option: str) -> None:
    """Reject more ranks than the model splits over.

    Raises:
        ConfigError: there are more.
    """
    num_heads = facts.config.num_heads
    if size > num_heads:
        raise ConfigError(
            f"{option} is {size}: {facts.directory} has {num_heads} query heads, so it "
            f"splits over at most {num_heads} ranks"
        )


def check_device(device: str, field: str = "device") -> None:
    """Reject a device that this process does not have.

    Args:
        device: the device.
        field: the option that names it.

    Raises:
        ConfigError: the device is unknown, or CUDA without a CUDA device or the kernels for it.
    """
    if device not in DEVICES:
        raise ConfigError(f"`{field}` is {device!r}: choose one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"`{field}` is 'cuda', but there is no CUDA device, or torch has no CUDA: use cpu, or "
            "join a cluster that has one with `ray`"
        )
    if device == "cuda":
        try:
            check_kernels()
        except KernelsMissing as error:
            raise ConfigError(f"`{field}` is 'cuda': {error}") from error


def num_gpus() -> int:
    """Return the number of CUDA devices that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
