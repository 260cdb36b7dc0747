"""The blocks of a decoder layer: attention and feed-forward, each with its norms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.group import Group
from parallel.model.cache import AppendPlan, PagedCache
from parallel.model.layers import ColumnParallelLinear, RmsNorm, RowParallelLinear
from parallel.model.model_config import Activation, ModelConfig
from parallel.model.rope import interleave, rotate_
from parallel.model.sharding import HeadShard, padded_range
from parallel.weights.stored_matrix import Matrix

# Shape suffixes: R = rows of the batch (its tokens, perhaps padded), T = tokens of a sequence,
# E = hidden size, N = heads, K = KV heads, G = query heads of a KV head, D = head_dim.

_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    Activation.SILU: F.silu,
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
}


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


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """What all layers with the same kind of attention share in one forward."""

    masks: Sequence[Tensor | None]
    """For each plan, what is added to its attention scores, [G * T, length]; None is nothing."""
    turns: Tensor
    """What `rotate_` takes for the rows' positions."""


@dataclass(frozen=True, slots=True)
class ForwardStep:
    """What all layers of one forward share."""

    num_tokens: int
    """Rows of the batch without the padding below them."""
    cache: PagedCache
    plans: Sequence[AppendPlan]
    attention: Sequence[AttentionInputs]
    """One for each kind of attention that the model has."""


def read_norm(config: ModelConfig, source: TensorSource, name: str) -> RmsNorm:
    """Return the norm whose weight has this name."""
    return make_norm(config, source.read(f"{name}.weight"))


def make_norm(config: ModelConfig, weight: Tensor) -> RmsNorm:
    """Return the norm with this weight, as the checkpoint has it."""
    return RmsNorm(weight + 1 if config.norms.adds_one else weight, config.rms_norm_eps)


class Attention:
    """Self-attention over this rank's heads."""

    def __init__(
        self, config: ModelConfig, source: TensorSource, index: int, shard: HeadShard, group: Group
    ) -> None:
        dim, prefix = config.head_dim, f"model.layers.{index}.self_attn"
        parts = [("q_proj", shard.query), ("k_proj", shard.kv), ("v_proj", shard.kv)]

        def read_heads(kind: str) -> Tensor:
            slices = [
                source.read_slice(f"{prefix}.{name}.{kind}", 0, first * dim, stop * dim)
                for name, (first, stop) in parts
            ]
            return torch.cat([*(interleave(part, dim) for part in slices[:2]), slices[2]])

        weight = read_heads("weight")
        bias = read_heads("bias") if config.qkv_bias else None
        self._qkv = ColumnParallelLinear(weight, bias)
        first, stop = shard.query[0] * dim, shard.query[1] * dim
        self._output = RowParallelLinear(
            source.read_slice(f"{prefix}.o_proj.weight", 1, first, stop),
            group,
            source.read(f"{prefix}.o_proj.bias") if config.output_bias else None,
        )
        self._norms = None
        if config.qk_norm:
            names = (f"{prefix}.q_norm.weight", f"{prefix}.k_norm.weight")
            weights = [interleave(source.read(name), dim) for name in names]
            self._norms = [make_norm(config, weight) for weight in weights]
        self._kind = config.kind_of(index)
        self._scale = config.attention_scale
        self._shard = shard
        self._head_dim = dim

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None
    ) -> Tensor:
        """Return the attention block's output plus `addend`, [R, E]; store new keys and values."""
        num_q, num_kv = self._shard.num_query, self._shard.num_kv
        heads_RND = self._qkv(x_RE).view(len(x_RE), num_q + 2 * num_kv, self._head_dim)
        qk_RND = heads_RND[:, : num_q + num_kv]
        if self._norms is not None:
            q_norm, k_norm = self._norms
            qk_RND[:, :num_q] = q_norm(qk_RND[:, :num_q])
            qk_RND[:, num_q:] = k_norm(qk_RND[:, num_q:])
        inputs = step.attention[self._kind]
        rotate_(qk_RND, inputs.turns)
        attended_RND = x_RE.new_zeros((len(x_RE), num_q, self._head_dim))
        for plan, mask in zip(step.plans, inputs.masks, strict=True):
            rows = slice(plan.first_row, plan.stop_row)
            keys, values = step.cache.extend(layer, plan, heads_RND[rows, num_q:])
            attended_NTD = self._attend(heads_RND[rows, :num_q], keys, values, mask)
            attended_RND[rows] = attended_NTD.transpose(0, 1)
        return self._output(attended_RND.view(len(x_RE), -1), addend, step.num_tokens)

    def _attend(self, q_TND: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return one sequence's attention, [num_query, T, head_dim].

        The query heads that share a KV head are rows of one head: the kernel then reads each key
        once (29 us instead of 40 for one token after 200, 2026-11-23).
        """
        num_rows, num_q, dim = q_TND.shape
        num_kv = self._shard.num_kv
        q_TKGD = q_TND.view(num_rows, num_kv, num_q // num_kv, dim)
        if num_rows > 1:
            q_TKGD = q_TKGD.permute(1, 2, 0, 3).reshape(1, num_kv, -1, dim)
        attended = F.scaled_dot_product_attention(
            q_TKGD, keys, values, attn_mask=mask, scale=self._scale
        )
        return attended.view(num_q, num_rows, dim)


class Mlp:
    """The gated feed-forward block over this rank's columns."""

    def __init__(
        self, config: ModelConfig, source: TensorSource, prefix: str, group: Group
    ) -> None:
        first, stop = padded_range(config.intermediate_size, group.size, group.rank)
        names = (f"{prefix}.gate_proj", f"{prefix}.up_proj")
        weight = torch.cat([source.read_slice(f"{n}.weight", 0, first, stop) for n in names])
        bias = None
        if config.mlp_bias:
            bias = torch.cat([source.read_slice(f"{n}.bias", 0, first, stop) for n in names])
        self._gate_up = ColumnParallelLinear(weight, bias)
        self._activate = _ACTIVATIONS[config.activation]
        self._down = RowParallelLinear(
            source.read_slice(f"{prefix}.down_proj.weight", 1, first, stop),
            group,
            source.read(f"{prefix}.down_proj.bias") if config.mlp_bias else None,
        )

    def __call__(self, x_RE: Tensor, step: ForwardStep, addend: Tensor | None) -> Tensor:
        """Return the block's output plus `addend`, [R, E]."""
        gate, up = self._gate_up(x_RE).chunk(2, dim=-1)
        return self._down(self._activate(gate).mul_(up), addend, step.num_tokens)


class AttentionBlock:
    """A layer's attention, with its norms."""

    def __init__(
        self, config: ModelConfig, source: TensorSource, index: int, shard: HeadShard, group: Group
    ) -> None:
        self._norms = _BlockNorms(
            config, source, index, config.norms.before_attention, config.norms.after_attention
        )
        self._attention = Attention(config, source, index, shard, group)

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what attention adds to the residual stream, plus `addend`.

        `layer` is the block's index in this rank's cache.
        """
        normed_RE = self._norms.before(x_RE)
        if self._norms.after is None:
            return self._attention(normed_RE, layer, step, addend)
        return self._norms.finish(self._attention(normed_RE, layer, step, None), addend)


class MlpBlock:
    """A layer's feed-forward block, with its norms."""

    def __init__(self, config: ModelConfig, source: TensorSource, index: int, group: Group) -> None:
        self._norms = _BlockNorms(
            config, source, index, config.norms.before_mlp, config.norms.after_mlp
        )
        self._mlp = Mlp(config, source, f"model.layers.{index}.mlp", group)

    def __call__(self, x_RE: Tensor, step: ForwardStep, addend: Tensor | None = None) -> Tensor:
        """Return what the feed-forward block adds to the residual stream, plus `addend`."""
        normed_RE = self._norms.before(x_RE)
        if self._norms.after is None:
            return self._mlp(normed_RE, step, addend)
        return self._norms.finish(self._mlp(normed_RE, step, None), addend)


class _BlockNorms:
    """The norm before a block, and the one after it if there is one."""

    def __init__(
        self, config: ModelConfig, source: TensorSource, index: int, before: str, after: str | None
    ) -> None:
        prefix = f"model.layers.{index}"
        self.before = read_norm(config, source, f"{prefix}.{before}")
        self.after = None if after is None else read_norm(config, source, f"{prefix}.{after}")

    def finish(self, out_RE: Tensor, addend: Tensor | None) -> Tensor:
        """Return a block's output, summed over the ranks, normalized, plus `addend`."""
        assert self.after is not None
        normed_RE = self.after(out_RE)
        return normed_RE if addend is None else normed_RE.add_(addend)
