"""What a chunk keeps in memory, found by running it without numbers.

A model of one layer and one of two are run on tensors that have shapes and no storage; all further
layers keep what the second one does. So the figures follow what transformers and torch really keep
for the way back, in any family and with any adapter.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from parallel.model.model_config import ModelConfig
from parallel.training.frozen_linear import FrozenLinear
from runtime.models.transformers_model import transformers_config
from runtime.training.adapters.split_base import SplitModel
from runtime.training.job.job_config import TrainConfig
from runtime.training.planning.empty_source import EmptySource
from runtime.training.trainable import lora_weights

_FLOAT_BYTES = 4
_LOGIT_COPIES = 3
"""Of the logits at the same time, on the way back: their logarithms and two gradients."""
_CONVERSION_BYTES = {"float32": 0, "bfloat16": 4, "int8": 4, "int4": 5}
"""Bytes of a weight while its matrix is converted for a product; codes of int4 are unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkShape:
    """The largest chunk of a job."""

    rows: int
    length: int
    """Tokens of a row."""
    num_learned: int
    """Tokens in the loss, of all rows."""
    is_masked: bool
    """Whether attention needs a mask, because samples differ in length or share a row."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return self.rows * self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMemory:
    """Bytes that a rank holds while it computes a chunk."""

    weights: int
    """All weights, those of adapters left out."""
    activations: int
    """What the layers keep for the way back."""
    logits: int
    conversion: int
    """The largest matrix in float32, where weights are held in another format."""


def chunk_memory(
    directory: Path, model: ModelConfig, config: TrainConfig, shape: ChunkShape, *, tp: int = 1
) -> ChunkMemory:
    """Return what rank 0 of a worker, which has the largest part, holds during a chunk.

    Args:
        directory: where the model's config.json is; no weights are read.
        model: its configuration.
        config: the job.
        shape: the chunk's.
        tp: ranks of a worker.

    Raises:
        ConfigError: the model does not split over the ranks.
    """
    one, two = (_traced(directory, model, config, shape, tp, num_layers=n) for n in (1, 2))
    further = model.num_layers - 1
    layer = two.activations - one.activations
    activations = one.activations + further * layer
    if config.gradient_checkpointing:  # inputs of all layers, and one layer that is computed again
        inputs = model.num_layers * shape.num_tokens * model.hidden_size * _FLOAT_BYTES
        activations = one.activations + inputs
    return ChunkMemory(
        weights=one.weights + further * (two.weights - one.weights),
        activations=activations,
        logits=one.logits,
        conversion=one.conversion,
    )


def _traced(
    directory: Path,
    model: ModelConfig,
    config: TrainConfig,
    shape: ChunkShape,
    tp: int,
    *,
    num_layers: int,
) -> ChunkMemory:
    settings = _with_layers(transformers_config(directory), num_layers)
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # of the adapter, and of tables of angles
    source = EmptySource(replace(model, num_layers=num_layers), config.base_precision, mode)
    part = SplitModel(settings, model, source, config.base_precision, _ShapeGroup(tp))
    weights = _storages(part.model)
    if config.method == "full":
        part.trained()
    else:
        plain = replace(config.lora, rank_pattern={}, alpha_pattern={})
        lora_weights(part.model, plain, config.seed)
    part.join()
    with mode:
        saved = _saved_bytes(part.model, config, shape)
    log_probs = shape.num_learned * model.vocab_size * _FLOAT_BYTES
    linear = (m for m in part.model.modules() if isinstance(m, nn.Linear | FrozenLinear))
    largest = max(layer.in_features * layer.out_features for layer in linear)
    per_weight = _CONVERSION_BYTES[config.base_precision]
    return ChunkMemory(
        weights=sum(weights.values()),
        activations=max(0, saved - log_probs),
        logits=_LOGIT_COPIES * log_probs,
        conversion=largest * per_weight,
    )


def _saved_bytes(model: nn.Module, config: TrainConfig, shape: ChunkShape) -> int:
    """Return the bytes that a forward keeps, weights left out."""
    is_weight = _storages(model)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        is_mask = tensor.shape[-2:] == (shape.length, shape.length) and tensor.shape[-3:-2] == (1,)
        if storage not in is_weight and not (is_mask and not shape.is_masked):
            kept.setdefault(storage, tensor)  # held, so that no other gets its number
        return tensor

    model.train()
    lower = config.precision != "float32"
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=lower),
        _head_of(model, shape.num_learned),
    ):
        ids = torch.zeros(shape.rows, shape.length, dtype=torch.int64)
        mask = torch.ones(shape.rows, 1, shape.length, shape.length, dtype=torch.bool)
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        loss = F.cross_entropy(logits, torch.zeros(shape.num_learned, dtype=torch.int64))
        found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del loss
    return found


@contextlib.contextmanager
def _head_of(model: nn.Module, num_learned: int) -> Iterator[None]:
    """Compute so many logits, [N, V]."""

    def first(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[:num_learned].clone(), *inputs[1:])

    head = model.get_output_embeddings()  # type: ignore[operator]  # transformers'
    hook = head.register_forward_pre_hook(first, prepend=True)
    try:
        yield
    finally:
        hook.remove()


class _ShapeGroup:
    """Rank 0 of a group whose exchanges have shapes and no numbers."""

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        return torch.stack([tensor] * self.size)

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        assert payload is not None
        return payload

    def close(self) -> None:
        pass


def _with_layers(settings: PretrainedConfig, num_layers: int) -> PretrainedConfig:
    """Return the settings of a model with its first layers, or its first one repeatedly."""
    kinds = getattr(settings, "layer_types", None)
    if kinds is not None:
        settings.layer_types = (kinds * num_layers)[:num_layers]
    settings.num_hidden_layers = num_layers
    rope = getattr(settings, "rope_parameters", None) or {}
    for one in [rope] if "rope_type" in rope else rope.values():  # or of each kind of layers
        if one["rope_type"] == "dynamic":  # which asks for the longest position, a number
            one["rope_type"] = "default"
    return settings


def _storages(model: nn.Module) -> dict[int, int]:
    """Return the bytes of each storage of a model's weights, by its number."""
    found = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage.nbytes()
    return found
