"""A model with an adapter in it."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from runtime.checkpoint import resolve_model
from runtime.errors import ConfigError
from runtime.training.base_model import load_model
from runtime.training.checkpoint import save_whole

_PREFIX, _DOWN = "base_model.model.", ".lora_A.weight"


def merge_adapter(adapter: Path, out: Path) -> int:
    """Write an adapter's model with it merged in, and return how many layers it changed.

    Raises:
        ConfigError: the adapter cannot be read, does not fit its model, or `out` is taken.
    """
    base_name, scale = _settings(adapter)
    if out.exists():
        raise ConfigError(f"{out} exists: name a new directory")
    base = resolve_model(base_name)
    try:
        tensors = load_file(adapter / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{adapter} is damaged: {error}") from error
    model = load_model(base)
    weights = dict(model.named_parameters())
    layers = sorted(
        name.removeprefix(_PREFIX).removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)
    )
    with torch.no_grad():
        for layer in layers:
            if f"{layer}.weight" not in weights:
                raise ConfigError(f"{adapter} adapts {layer}, which {base} does not have")
            down = tensors[f"{_PREFIX}{layer}{_DOWN}"]
            up = tensors[f"{_PREFIX}{layer}.lora_B.weight"]
            weights[f"{layer}.weight"] += scale * (up @ down)
    save_whole(out, {name: w.detach().numpy() for name, w in weights.items()}, base)
    return len(layers)


def _settings(adapter: Path) -> tuple[str, float]:
    """Return what an adapter belongs to, and its scale."""
    file = adapter / "adapter_config.json"
    try:
        found = json.loads(file.read_text())
        return str(found["base_model_name_or_path"]), found["lora_alpha"] / found["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{adapter} is no adapter: {file.name}: {error}") from error
