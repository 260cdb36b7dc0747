"""Compare a published result with its log, bit for bit."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from parallel.training.adamw import Vector
from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_object
from runtime.training.adapters.adapter_config import CONFIG_FILE, AdapterConfig, read_adapter_config
from runtime.training.adapters.saving import adapter_settings, whole_settings
from runtime.training.shared_seed.points import LINEAR
from runtime.training.shared_seed.replay import Replayed, adapter_part, all_weights

_MODEL, _ADAPTER = "model.safetensors", "adapter_model.safetensors"
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.index.json")
"""Files that a program may load instead of the compared one."""


def check_result(result: Path) -> None:
    """Raise ConfigError unless a directory holds weights to compare.

    Raises:
        ConfigError: it holds none.
    """
    if not any((result / name).is_file() for name in (_MODEL, _ADAPTER)):
        raise ConfigError(f"{result} has neither {_ADAPTER} nor {_MODEL}: name a result")


def difference(result: Path, replayed: Replayed) -> str | None:
    """Return the first difference of a published result from its log; None if they are equal.

    Its weights are compared, and the settings that decide what they compute.

    Raises:
        ConfigError: there is no result, or its settings cannot be read.
    """
    is_linear = replayed.header.weights == LINEAR
    file = result / (_MODEL if is_linear else _ADAPTER)
    others = {other for pattern in _OTHER_WEIGHTS for other in result.glob(pattern)} - {file}
    if others:
        return f"it also holds {min(others).name}, which a program may load instead"
    if is_linear:
        wanted = all_weights(replayed.base) | replayed.weights
        settings = _model_settings(result, replayed)
    else:
        named = replayed.weights.items()
        wanted = {f"base_model.model.{name}.weight": weight for name, weight in named}
        settings = _adapter_settings(result, replayed)
    return _other_weights(_read(file), wanted) or settings


def _read(file: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    return found


def _other_weights(found: Mapping[str, Tensor], wanted: Mapping[str, Vector]) -> str | None:
    if found.keys() != wanted.keys():
        return f"other weights: {', '.join(sorted(found.keys() ^ wanted.keys())[:3])}"
    for name, weight in wanted.items():
        mine = np.ascontiguousarray(weight).view(np.uint32)
        there = found[name].contiguous()
        if there.dtype != torch.float32 or there.shape != weight.shape:
            return f"{name} has other numbers: {there.dtype}, {tuple(there.shape)}"
        other = there.numpy().view(np.uint32)
        if not np.array_equal(mine, other):
            return f"{name}: {int((mine != other).sum())} of {mine.size} numbers differ"
    return None


def _adapter_settings(result: Path, replayed: Replayed) -> str | None:
    found = read_adapter_config(result)
    wanted = adapter_settings(adapter_part(replayed.header), found.base)
    return _other_keys(
        CONFIG_FILE, found.meaning, AdapterConfig(base=found.base, table=wanted).meaning
    )


def _model_settings(result: Path, replayed: Replayed) -> str | None:
    file = result / "config.json"
    found = read_json_object(file)
    return _other_keys(file.name, found, whole_settings(replayed.base, has_tied_head=None))


def _other_keys(name: str, found: Mapping[str, object], wanted: Mapping[str, object]) -> str | None:
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            return f"{name}: {key} is {found.get(key)!r}, not {wanted.get(key)!r}"
    return None
