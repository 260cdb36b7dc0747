"""The base of an adapter with its weights held in bfloat16 or in generation's integer codes."""

from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from parallel.training.frozen_linear import FrozenLinear
from parallel.training.lora import row_lengths
from parallel.weights.stored_matrix import as_float
from runtime.models.checkpoint_files import read_checkpoint
from runtime.models.transformers_model import transformers_config
from runtime.training.adapters.base_model import ONE_AT_A_TIME, prepared
from runtime.weights.checkpoint_source import CheckpointSource

_CPU = torch.device("cpu")
_LENGTHS = ".lora_magnitude_vector"


def load_frozen(directory: Path, precision: str) -> PreTrainedModel:
    """Load a checkpoint whose matrices are held in a precision; it computes in float32.

    Tensors are read one after the other, so loading needs no more memory than the result. Linear
    layers are held in the precision, a plain embedding and a head that is tied to it in bfloat16,
    everything else in float32.

    Args:
        directory: the checkpoint.
        precision: bfloat16, int8 or int4.

    Raises:
        ConfigError: generation would reject it, or its numbers cannot be held so.
    """
    files = read_checkpoint(directory)
    source = CheckpointSource(directory, precision, _CPU, tensors=files.tensors)
    with ONE_AT_A_TIME, init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            transformers_config(directory), dtype=torch.float32
        )
    model.requires_grad_(requires_grad=False)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not (module is head and files.config.tied_head):
            model.set_submodule(name, _frozen(source, name, module))
    embedded = next(name for name, module in model.named_modules() if module is embedding)
    weight = source.read(f"{embedded}.weight")
    if type(embedding) is nn.Embedding:  # others scale what they look up, in the dtype of it
        weight = weight.bfloat16()
        embedding.register_forward_hook(_as_float32)
    embedding.weight = nn.Parameter(weight, requires_grad=False)
    if files.config.tied_head:
        model.set_output_embeddings(FrozenLinear(embedding.weight))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            owner, _, last = name.rpartition(".")
            held = nn.Parameter(source.read(name), requires_grad=False)
            setattr(model.get_submodule(owner), last, held)
    return prepared(model)


def lengths_of(directory: Path, precision: str, weights: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the first values of DoRA's lengths among an adapter's weights, by name.

    The base is read matrix by matrix, as workers hold it.

    Raises:
        ConfigError: as `load_frozen`.
    """
    files = read_checkpoint(directory)
    source = CheckpointSource(directory, precision, _CPU, tensors=files.tensors)
    found = {}
    for name in weights:
        if name.endswith(_LENGTHS):
            stored = f"{name.removesuffix(_LENGTHS)}.weight"
            rows = files.tensors[stored].shape[0]
            matrix = as_float(source.read_matrix(stored, 0, 0, rows))
            found[name] = nn.Parameter(row_lengths(matrix))
    return found


def _frozen(source: CheckpointSource, name: str, layer: nn.Linear) -> FrozenLinear:
    matrix = source.read_matrix(f"{name}.weight", 0, 0, layer.out_features)
    bias = None if layer.bias is None else source.read(f"{name}.bias")
    return FrozenLinear(matrix, bias)


def _as_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:  # noqa: ARG001
    return output.float()
