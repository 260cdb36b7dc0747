"""The facts about a checkpoint before any weight is read: configuration, size, splits."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from parallel.model.cache import cache_bytes
from parallel.model.model_config import ModelConfig
from parallel.model.shapes import tensor_shapes
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint

_LOG = logging.getLogger("paceline.models")
DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A checkpoint whose files are complete."""

    directory: Path
    config: ModelConfig

    def weight_bytes(self, dtype: str, layers: tuple[int, ...] | None = None) -> int:
        """Return the memory of the weights; a tied table is stored twice, for look-up and head."""
        values = sum(math.prod(shape) for shape in tensor_shapes(self.config, layers).values())
        if self.config.tied_head:
            values += self.config.vocab_size * self.config.hidden_size
        return values * _dtype(dtype).itemsize

    def cache_bytes(
        self, dtype: str, num_tokens: int, layers: tuple[int, ...] | None = None
    ) -> int:
        """Return the memory of a KV cache."""
        num_layers = None if layers is None else len(layers)
        values = self.config.cache_values_per_token(num_layers)
        return cache_bytes(values, num_tokens, _dtype(dtype))


def read_facts(directory: Path) -> ModelFacts:
    """Read a checkpoint's configuration and the headers of its weight files.

    Raises:
        ConfigError: something is missing, damaged or not supported.
    """
    config = read_checkpoint(directory).config
    if config.rope.kind == "dynamic" and config.rope.factor > 1:
        _LOG.warning(
            "%s: the context ends at max_position_embeddings, %d tokens: dynamic RoPE scaling by "
            "%g is exact only up to there",
            directory / "config.json",
            config.max_positions,
            config.rope.factor,
        )
    return ModelFacts(directory=directory, config=config)


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


def check_device(device: str) -> None:
    """Reject a device that this process does not have.

    Raises:
        ConfigError: the device is unknown, or CUDA without a CUDA device.
    """
    if device not in DEVICES:
        raise ConfigError(f"`device` is {device!r}: choose one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "`device` is 'cuda', but there is no CUDA device, or torch has no CUDA: use cpu, or "
            "join a cluster that has one with `ray`"
        )


def num_gpus() -> int:
    """Return the number of CUDA devices that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"`dtype` is {name!r}: choose one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
