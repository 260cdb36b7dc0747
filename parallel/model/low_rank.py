"""Adapters of a decoder (LoRA, Hu et al., arXiv 2106.09685), and the part of one that a rank holds.

The base weights stay as they are: each adapted product becomes x W^T + (x A^T) B^T. Of products
whose outputs are split over the ranks, a rank holds rows of B; of those whose inputs are split,
columns of A, and what it adds is summed over the ranks together with its product.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from parallel.group import Group
from parallel.model.model_config import ModelConfig
from parallel.model.rope import interleave
from parallel.model.sharding import HeadShard, padded_range


class AdaptedPart(IntEnum):
    """The products of a layer that an adapter may add to, in the order of the native kernels."""

    QUERY = 0
    KEY = 1
    VALUE = 2
    OUTPUT = 3
    GATE = 4
    UP = 5
    DOWN = 6


PART_NAMES = {
    AdaptedPart.QUERY: "self_attn.q_proj",
    AdaptedPart.KEY: "self_attn.k_proj",
    AdaptedPart.VALUE: "self_attn.v_proj",
    AdaptedPart.OUTPUT: "self_attn.o_proj",
    AdaptedPart.GATE: "mlp.gate_proj",
    AdaptedPart.UP: "mlp.up_proj",
    AdaptedPart.DOWN: "mlp.down_proj",
}
_SPLIT_INPUTS = (AdaptedPart.OUTPUT, AdaptedPart.DOWN)
"""Products whose inputs are split over the ranks; of the others, the outputs are."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a product: (x down^T) up^T."""

    down: Tensor
    """[rank, inputs] float32."""
    up: Tensor
    """[outputs, rank] float32, multiplied by the adapter's scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A whole adapter, checked against its model."""

    name: str
    """Unique among all adapters with other numbers."""
    layers: tuple[Mapping[AdaptedPart, LowRank], ...]
    """For each layer of the model, what is added to which of its products."""

    @property
    def num_bytes(self) -> int:
        """The size of its numbers."""
        tensors = (t for layer in self.layers for one in layer.values() for t in (one.down, one.up))
        return sum(t.nbytes for t in tensors)


@dataclass(frozen=True, slots=True)
class AdaptedRows:
    """The adapters of the rows of a forward."""

    adapters: Sequence[Any]
    """Each of them once, as the model's backend holds it."""
    of_row: Sequence[int]
    """[rows]: the number of each row's adapter among them, or -1."""


ShardAdapter = tuple[Mapping[AdaptedPart, LowRank], ...]
"""A rank's part of an adapter: for each layer, what it adds to this rank's products."""


def part_shapes(config: ModelConfig) -> dict[AdaptedPart, tuple[int, int]]:
    """Return the outputs and inputs of each product of a layer."""
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        AdaptedPart.QUERY: (query, hidden),
        AdaptedPart.KEY: (kv, hidden),
        AdaptedPart.VALUE: (kv, hidden),
        AdaptedPart.OUTPUT: (hidden, query),
        AdaptedPart.GATE: (inner, hidden),
        AdaptedPart.UP: (inner, hidden),
        AdaptedPart.DOWN: (hidden, inner),
    }


def shard_adapter(
    adapter: Adapter,
    config: ModelConfig,
    heads: HeadShard,
    group: Group,
    *,
    device: torch.device,
) -> ShardAdapter:
    """Return the part of an adapter that belongs to a rank's weights.

    Args:
        adapter: the whole adapter.
        config: its model's.
        heads: the rank's.
        group: the ranks that the model is split over.
        device: the device of the rank.

    Raises:
        ValueError: it has another number of layers, or other shapes than the model.
    """
    check_adapter(adapter, config)
    ranges = _ranges(config, heads, group)

    def cut(part: AdaptedPart, whole: LowRank) -> LowRank:
        first, stop = ranges[part]
        down, up = whole.down, whole.up
        if part in _SPLIT_INPUTS:
            down = down[:, first:stop]
        else:
            up = up[first:stop]
        if part in (
            AdaptedPart.QUERY,
            AdaptedPart.KEY,
        ):  # as the weights of queries and keys are held
            up = interleave(up, config.head_dim)
        # Copies: a slice would keep the whole adapter.
        return LowRank(
            down.to(device, torch.float32, copy=True, memory_format=torch.contiguous_format),
            up.to(device, torch.float32, copy=True, memory_format=torch.contiguous_format),
        )

    return tuple({part: cut(part, one) for part, one in layer.items()} for layer in adapter.layers)


def check_adapter(adapter: Adapter, config: ModelConfig) -> None:
    """Raise ValueError unless an adapter has the model's layers and shapes; names the layer."""
    if len(adapter.layers) != config.num_layers:
        raise ValueError(
            f"the adapter has {len(adapter.layers)} layers, the model {config.num_layers}"
        )
    shapes = part_shapes(config)
    for name, part, one in _parts(adapter):
        outputs, inputs = shapes[part]
        rank = len(one.down)
        for which, tensor, wanted in (
            ("lora_A", one.down, (rank, inputs)),
            ("lora_B", one.up, (outputs, rank)),
        ):
            if tuple(tensor.shape) != wanted:
                raise ValueError(
                    f"{name}.{which} has the shape {tuple(tensor.shape)}, the model needs {wanted}"
                )


def _parts(adapter: Adapter) -> Iterator[tuple[str, AdaptedPart, LowRank]]:
    for index, layer in enumerate(adapter.layers):
        for part, one in layer.items():
            yield f"model.layers.{index}.{PART_NAMES[part]}", part, one


def _ranges(
    config: ModelConfig, heads: HeadShard, group: Group
) -> dict[AdaptedPart, tuple[int, int]]:
    """Return the rank's range of each product's split dimension."""
    dim = config.head_dim
    query = (heads.query[0] * dim, heads.query[1] * dim)
    kv = (heads.kv[0] * dim, heads.kv[1] * dim)
    columns = padded_range(config.intermediate_size, group.size, group.rank)
    return {
        AdaptedPart.QUERY: query,
        AdaptedPart.KEY: kv,
        AdaptedPart.VALUE: kv,
        AdaptedPart.OUTPUT: query,
        AdaptedPart.GATE: columns,
        AdaptedPart.UP: columns,
        AdaptedPart.DOWN: columns,
    }
