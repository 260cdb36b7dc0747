"""The choice of a weight format: what a model's matrices and activations are held as."""

import math
from dataclasses import dataclass, replace

import torch

from parallel.weights.quantize import can_quantize
from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.weights.stored_tensors import StoredForm, TensorEntry

AUTO = "auto"
WEIGHTS = (AUTO, *WeightFormat)
"""The values of `weights`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChoice:
    """How a device holds a model."""

    matrices: WeightFormat | None
    """The format of linear layers, embedding and head; None: each as its file has it."""
    activations: torch.dtype
    """The dtype of activations, norms, biases and the KV cache."""


def choose_weights(weights: str, device: str) -> WeightChoice:
    """Return what a value of `weights` means on a device.

    On a CPU, activations are float32 and the matrices have the format that is named, or that of
    their file. On CUDA, all numbers have one dtype, bfloat16 by default.

    Raises:
        ConfigError: the value is unknown, or the device has no kernels for it.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"`weights` is {weights!r}: choose one of {', '.join(WEIGHTS)}")
    if device.startswith("cuda"):
        form = WeightFormat.BFLOAT16 if weights == AUTO else WeightFormat(weights)
        if form.is_grouped:
            raise ConfigError(
                f"`weights` is {weights}, which runs on CPUs: take bfloat16 with `device={device}`"
            )
        return WeightChoice(matrices=form, activations=dtype_of(form))
    if weights != AUTO:
        return WeightChoice(matrices=WeightFormat(weights), activations=torch.float32)
    return WeightChoice(matrices=None, activations=torch.float32)


def held_bytes(entry: TensorEntry, choice: WeightChoice) -> int:
    """Return the memory of a tensor, as `CheckpointSource` holds it."""
    num_weights = math.prod(entry.shape)
    if len(entry.shape) == 1:
        return num_weights * choice.activations.itemsize
    if choice.matrices is not None and not choice.matrices.is_grouped:
        return num_weights * dtype_of(choice.matrices).itemsize
    form = _held_form(entry, choice.matrices)
    return entry.num_bytes if form is None else form.num_bytes(entry.shape)


def is_held_in_codes(entry: TensorEntry, choice: WeightChoice) -> bool:
    """Return whether `CheckpointSource` holds a matrix in integer codes."""
    is_float = choice.matrices is not None and not choice.matrices.is_grouped
    return not is_float and _held_form(entry, choice.matrices) is not None


def _held_form(entry: TensorEntry, wanted: WeightFormat | None) -> StoredForm | None:
    """Return the form of a matrix of which int8, int4 or the file's format is wanted."""
    if wanted is None or (entry.form is not None and entry.form.format is wanted):
        return entry.form
    if not can_quantize(entry.shape[1]):
        return None
    if wanted is WeightFormat.INT4:
        return StoredForm(WeightFormat.INT4, has_mins=True)
    return (
        StoredForm(WeightFormat.INT8) if entry.form is None else replace(entry.form, format=wanted)
    )


def dtype_of(form: WeightFormat) -> torch.dtype:
    """Return the dtype of a format that is not in groups."""
    dtype: torch.dtype = getattr(torch, form)
    return dtype
