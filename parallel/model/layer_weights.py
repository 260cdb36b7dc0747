"""The weights of a decoder layer, as one rank holds them; read once, for any backend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from parallel.group import Group
from parallel.model.model_config import Activation, ModelConfig
from parallel.model.rope import interleave
from parallel.model.sharding import HeadShard, padded_range
from parallel.weights.stored_matrix import Matrix, permuted, stacked


class TensorSource(Protocol):
    """Reads weights by their Hugging Face names."""

    def read(self, name: str) -> Tensor:
        """Return a whole tensor, in the dtype and on the device the model runs in."""
        ...

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        """Return the part of a tensor from `first` to `stop` along a dimension."""
        ...

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        """Return the part of a linear layer's weight as the model is to hold it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNorms:
    """The norms before a block and, if there is one, after it: weights, [hidden]."""

    before: Tensor
    after: Tensor | None
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWeights:
    """A layer's attention over one rank's heads.

    Queries and keys have the two numbers of a rotated pair next to each other.
    """

    norms: BlockNorms
    qkv: Sequence[Matrix]
    """[heads * head_dim, hidden] together: queries, keys, values, in as few matrices as their
    formats allow."""
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    """[head_dim]"""
    key_norm: Tensor | None
    output: Matrix
    """[hidden, query heads * head_dim]"""
    output_bias: Tensor | None
    """[hidden]; one rank adds it."""
    shard: HeadShard
    head_dim: int
    scale: float
    """Factor of the attention scores."""
    kind: int
    """Which of the model's kinds of attention it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpWeights:
    """A layer's gated feed-forward block over one rank's columns."""

    norms: BlockNorms
    gate_up: Sequence[Matrix]
    """[2 * columns, hidden] together: gates, then the values they multiply."""
    gate_up_bias: Tensor | None
    down: Matrix
    """[hidden, columns]"""
    down_bias: Tensor | None
    """[hidden]; one rank adds it."""
    num_columns: int
    activation: Activation


def read_norm(config: ModelConfig, source: TensorSource, name: str) -> Tensor:
    """Return the weight of a norm, as the normalized values are multiplied with it."""
    weight = source.read(f"{name}.weight")
    return weight + 1 if config.norms.adds_one else weight


def read_attention(
    config: ModelConfig, source: TensorSource, index: int, shard: HeadShard
) -> AttentionWeights:
    """Read the attention of layer `index` over the heads of a shard."""
    dim, prefix = config.head_dim, f"model.layers.{index}.self_attn"
    parts = {"q_proj": shard.query, "k_proj": shard.kv, "v_proj": shard.kv}
    matrices: list[Matrix] = []
    biases: list[Tensor] = []
    for name, (first, stop) in parts.items():
        rows = torch.arange((stop - first) * dim)
        order = rows if name == "v_proj" else interleave(rows, dim)
        matrix = source.read_matrix(f"{prefix}.{name}.weight", 0, first * dim, stop * dim)
        matrices.append(matrix if name == "v_proj" else permuted(matrix, order))
        if config.qkv_bias:
            bias = source.read_slice(f"{prefix}.{name}.bias", 0, first * dim, stop * dim)
            biases.append(bias[order.to(bias.device)])
    query_norm = key_norm = None
    if config.qk_norm:
        query_norm, key_norm = (
            interleave(read_norm(config, source, f"{prefix}.{name}"), dim)
            for name in ("q_norm", "k_norm")
        )
    first, stop = shard.query[0] * dim, shard.query[1] * dim
    return AttentionWeights(
        norms=_norms(
            config, source, index, config.norms.before_attention, config.norms.after_attention
        ),
        qkv=stacked(matrices),
        qkv_bias=torch.cat(biases) if biases else None,
        query_norm=query_norm,
        key_norm=key_norm,
        output=source.read_matrix(f"{prefix}.o_proj.weight", 1, first, stop),
        output_bias=source.read(f"{prefix}.o_proj.bias") if config.output_bias else None,
        shard=shard,
        head_dim=dim,
        scale=config.attention_scale or dim**-0.5,
        kind=config.kind_of(index),
    )


def read_mlp(config: ModelConfig, source: TensorSource, index: int, group: Group) -> MlpWeights:
    """Read this rank's columns of the feed-forward block of layer `index`."""
    prefix = f"model.layers.{index}.mlp"
    first, stop = padded_range(config.intermediate_size, group.size, group.rank)
    names = (f"{prefix}.gate_proj", f"{prefix}.up_proj")
    bias = None
    if config.mlp_bias:
        bias = torch.cat([source.read_slice(f"{n}.bias", 0, first, stop) for n in names])
    return MlpWeights(
        norms=_norms(config, source, index, config.norms.before_mlp, config.norms.after_mlp),
        gate_up=stacked([source.read_matrix(f"{n}.weight", 0, first, stop) for n in names]),
        gate_up_bias=bias,
        down=source.read_matrix(f"{prefix}.down_proj.weight", 1, first, stop),
        down_bias=source.read(f"{prefix}.down_proj.bias") if config.mlp_bias else None,
        num_columns=stop - first,
        activation=config.activation,
    )


def _norms(
    config: ModelConfig, source: TensorSource, index: int, before: str, after: str | None
) -> BlockNorms:
    prefix = f"model.layers.{index}"
    return BlockNorms(
        before=read_norm(config, source, f"{prefix}.{before}"),
        after=None if after is None else read_norm(config, source, f"{prefix}.{after}"),
        eps=config.rms_norm_eps,
    )
