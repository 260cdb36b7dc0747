"""Tiny models whose matrices are stored in some format."""

import json
from pathlib import Path

import torch
from torch import Tensor

from parallel.weights.quantize import can_quantize, quantize
from parallel.weights.stored_matrix import Matrix, StoredMatrix
from parallel.weights.weight_format import WeightFormat
from runtime.models.checkpoint_files import HEAD
from runtime.weights.stored_tensors import QUANTIZATION_CONFIG, save_matrices
from runtime.weights.weight_choice import dtype_of
from tests.support.tiny_transformer import TinyModel, tiny_model


def wide_model(kind: str = "llama", **changes: object) -> TinyModel:
    """Make a random model all of whose rows are whole groups, except for those of mlp.down_proj."""
    sizes = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    return tiny_model(kind, **(sizes | changes))


def save_stored(directory: Path, form: WeightFormat | None, model: TinyModel | None = None) -> Path:
    """Write a model with its matrices in a format; None is as transformers writes it, float32."""
    model = model or wide_model()
    reference = model.reference
    reference.save_pretrained(directory)
    if form is None:
        return directory
    weights: dict[str, Matrix] = {}
    for name, tensor in reference.state_dict().items():
        if name != HEAD or not model.config.tied_head:
            weights[name] = stored_as(tensor, form)
    (directory / "model.safetensors").unlink()
    save_matrices(directory, weights)
    if form.is_grouped:
        edit_config(directory, quantization_config=dict(QUANTIZATION_CONFIG))
    return directory


def stored_as(tensor: Tensor, form: WeightFormat) -> Matrix:
    """Return a tensor in a format; vectors and rows that are no whole groups stay as they are."""
    if tensor.dim() == 1:
        return tensor
    if not form.is_grouped:
        return tensor.to(dtype_of(form))
    return quantize(tensor, form) if can_quantize(tensor.shape[1]) else tensor


def edit_config(directory: Path, **changes: object) -> None:
    """Replace fields of a config.json; None removes one."""
    file = directory / "config.json"
    fields = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))


def num_bytes(matrix: Matrix) -> int:
    """Return the bytes of a matrix."""
    return matrix.num_bytes if isinstance(matrix, StoredMatrix) else matrix.nbytes


def equal_bits(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
    )
