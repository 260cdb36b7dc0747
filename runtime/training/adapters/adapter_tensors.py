"""The tensors of an adapter on disk, and a training job that starts from them."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from runtime.errors import ConfigError
from runtime.training.adapters.adapter_config import CONFIG_FILE, AdapterConfig, read_adapter_config
from runtime.training.adapters.saving import adapter_settings, tensor_name
from runtime.training.adapters.weight_layout import StartPoint
from runtime.training.job.job_config import LoraConfig

WEIGHTS_FILE = "adapter_model.safetensors"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NAMES = "target_modules"
"""Compared by the tensors: peft writes names of layers in more than one way."""


def read_adapter_tensors(adapter: Path) -> dict[str, Tensor]:
    """Return the tensors in an adapter's directory.

    Raises:
        ConfigError: they are missing, damaged, of another dtype, or not finite; names the tensor.
    """
    file = adapter / WEIGHTS_FILE
    if not file.is_file():
        if (adapter / "adapter_model.bin").exists():
            raise ConfigError(
                f"{adapter / 'adapter_model.bin'} is a pickle, which can run code: load it with "
                "peft and save it with save_pretrained, which writes safetensors"
            )
        raise ConfigError(f"{adapter} is not an adapter: it has no {WEIGHTS_FILE}")
    try:
        # Not mapped: who overwrites a mapped file changes the numbers, or crashes this process.
        tensors: dict[str, Tensor] = load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file} is damaged: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ConfigError(
                f"{file}: {name} is {_dtype(tensor)}: save the adapter in float32, bfloat16 or "
                "float16"
            )
        if not tensor.isfinite().all():
            raise ConfigError(f"{file}: {name} holds NaN or infinity: its training diverged")
    return tensors


def started_from(start: StartPoint, lora: LoraConfig) -> StartPoint:
    """Return a job's start with the values of the adapter in `lora.start`.

    Raises:
        ConfigError: it cannot be read, or has other layers or settings than the job; names what
            differs.
    """
    adapter = Path(lora.start)
    theirs = read_adapter_config(adapter).meaning
    ours = AdapterConfig(base="", table=adapter_settings(lora, "")).meaning
    for key in sorted((theirs.keys() | ours.keys()) - {_NAMES}):
        if theirs.get(key) != ours.get(key):
            raise ConfigError(
                f"`lora.start` is {adapter}, whose {CONFIG_FILE} has {key} {theirs.get(key)!r}, "
                f"not {ours.get(key)!r}: train with the adapter's own settings in `lora`"
            )
    tensors = read_adapter_tensors(adapter)
    wanted = {tensor_name(name): s for name, s in start.layout.shapes.items()}
    if odd := sorted(tensors.keys() ^ wanted.keys()):
        where = "the adapter lacks" if odd[0] in wanted else "the job lacks"
        raise ConfigError(f"`lora.start` is {adapter}: {where} {odd[0]}: compare `lora.targets`")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise ConfigError(
                f"`lora.start` is {adapter}: {name} has the shape {tuple(tensors[name].shape)}, "
                f"not {shape}: it belongs to another model"
            )
    parts = [tensors[name].float().numpy().ravel() for name in wanted]
    return StartPoint(layout=start.layout, parameters=np.concatenate(parts))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
