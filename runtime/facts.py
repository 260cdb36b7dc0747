"""What is known of a checkpoint before any weight is read: shape, size, how far it splits."""

from dataclasses import dataclass
from pathlib import Path

import torch

from parallel.model.cache import cache_bytes
from parallel.model.config import ModelConfig
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint

DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A checkpoint that was found and whose files are whole."""

    directory: Path
    config: ModelConfig

    def weight_bytes(self, dtype: str, layers: tuple[int, ...] | None = None) -> int:
        """Return the memory of the weights; a tied table is held twice, for look-up and head."""
        config = self.config
        heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        attention = (heads + config.num_heads * config.head_dim) * config.hidden_size
        block = attention + 3 * config.hidden_size * config.intermediate_size
        num_layers = config.num_layers if layers is None else len(layers)
        values = num_layers * block + 2 * config.vocab_size * config.hidden_size
        return values * _dtype(dtype).itemsize

    def cache_bytes(
        self, dtype: str, num_tokens: int, layers: tuple[int, ...] | None = None
    ) -> int:
        """Return the memory of a KV cache."""
        num_layers = None if layers is None else len(layers)
        values = self.config.cache_values_per_token(num_layers)
        return cache_bytes(values, num_tokens, _dtype(dtype))


def read_facts(directory: Path) -> ModelFacts:
    """Look at a checkpoint's configuration and at the headers of its weight files.

    Raises:
        ConfigError: something is missing, damaged or not supported.
    """
    return ModelFacts(directory=directory, config=read_checkpoint(directory).config)


def check_tensor_parallel(facts: ModelFacts, size: int, option: str) -> None:
    """Refuse more ranks than the model splits over.

    Raises:
        ConfigError: there are more.
    """
    most = facts.config.num_heads
    if size > most:
        raise ConfigError(
            f"{option} is {size}: {facts.directory} has {most} query heads, so it splits over at "
            f"most {most} ranks"
        )


def check_device(device: str) -> None:
    """Refuse a device this process does not have.

    Raises:
        ConfigError: it is no known device, or CUDA without a CUDA device.
    """
    if device not in DEVICES:
        raise ConfigError(f"--device is {device!r}: choose one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device is 'cuda', but there is no CUDA device, or torch has no CUDA: take cpu, or "
            "join a cluster that has one with --ray"
        )


def num_gpus() -> int:
    """Return the CUDA devices of this machine that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"--dtype is {name!r}: choose one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
