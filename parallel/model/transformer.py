"""The Llama-family decoder: one ragged forward over rows of many sequences.

It is filled through a `TensorSource`, of which each rank reads only its slices, and never asks
where weights come from or which rank it is beyond what its `Group` says.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.group import Group
from parallel.model.batch import SequenceRows
from parallel.model.cache import AppendPlan, PagedCache
from parallel.model.config import ModelConfig
from parallel.model.layers import (
    ColumnParallelLinear,
    RmsNorm,
    RowParallelLinear,
    VocabParallelEmbedding,
    fill_rows,
)
from parallel.model.rope import RotaryTable, interleave, rotate_
from parallel.model.sharding import HeadShard, head_shard, padded_range

# Shape suffixes: R = rows of the batch (its tokens, perhaps filled up), T = tokens of a sequence,
# E = hidden size, N = heads, K = KV heads, G = query heads of a KV head, D = head_dim.


class TensorSource(Protocol):
    """Where weights come from, by their Hugging Face names."""

    def read(self, name: str) -> Tensor:
        """Return a whole tensor, in the dtype and on the device the model runs in."""
        ...

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        """Return the stretch `first` to `stop` of a tensor's dimension."""
        ...


@dataclass(frozen=True, slots=True)
class ForwardStep:
    """What all layers of one forward share."""

    num_tokens: int
    """Rows of the batch; what is filled up below them does not count."""
    cache: PagedCache
    plans: Sequence[AppendPlan]
    masks: Sequence[Tensor | None]
    """For each plan, what is added to its attention scores, [G * T, length]; None is nothing."""
    turns: Tensor
    """What `rotate_` takes for the rows' positions."""


class Attention:
    """Self-attention over this rank's heads."""

    def __init__(
        self, config: ModelConfig, source: TensorSource, prefix: str, shard: HeadShard, group: Group
    ) -> None:
        dim = config.head_dim
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
            self._norms = [RmsNorm(weight, config.rms_norm_eps) for weight in weights]
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
        rotate_(qk_RND, step.turns)
        attended_RND = x_RE.new_zeros((len(x_RE), num_q, self._head_dim))
        for plan, mask in zip(step.plans, step.masks, strict=True):
            rows = slice(plan.first_row, plan.stop_row)
            keys, values = step.cache.extend(layer, plan, heads_RND[rows, num_q:])
            attended_NTD = self._attend(heads_RND[rows, :num_q], keys, values, mask)
            attended_RND[rows] = attended_NTD.transpose(0, 1)
        return self._output(attended_RND.view(len(x_RE), -1), addend, step.num_tokens)

    def _attend(self, q_TND: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return one sequence's attention, [num_query, T, head_dim].

        The query heads that share a KV head stand as rows of one: the kernel then reads each key
        once (29 us against 40 for one token after 200, 2026-11-23).
        """
        num_rows, num_q, dim = q_TND.shape
        num_kv = self._shard.num_kv
        q_TKGD = q_TND.view(num_rows, num_kv, num_q // num_kv, dim)
        if num_rows > 1:
            q_TKGD = q_TKGD.permute(1, 2, 0, 3).reshape(1, num_kv, -1, dim)
        attended = F.scaled_dot_product_attention(q_TKGD, keys, values, attn_mask=mask)
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
        self._down = RowParallelLinear(
            source.read_slice(f"{prefix}.down_proj.weight", 1, first, stop),
            group,
            source.read(f"{prefix}.down_proj.bias") if config.mlp_bias else None,
        )

    def __call__(self, x_RE: Tensor, step: ForwardStep, addend: Tensor | None) -> Tensor:
        """Return the block's output plus `addend`, [R, E]."""
        gate, up = self._gate_up(x_RE).chunk(2, dim=-1)
        return self._down(F.silu(gate).mul_(up), addend, step.num_tokens)


class Block:
    """One layer: attention and feed-forward, each behind its norm; callable apart."""

    def __init__(
        self, config: ModelConfig, source: TensorSource, index: int, shard: HeadShard, group: Group
    ) -> None:
        prefix, eps = f"model.layers.{index}", config.rms_norm_eps
        self._attention_norm = RmsNorm(source.read(f"{prefix}.input_layernorm.weight"), eps)
        self._attention = Attention(config, source, f"{prefix}.self_attn", shard, group)
        self._mlp_norm = RmsNorm(source.read(f"{prefix}.post_attention_layernorm.weight"), eps)
        self._mlp = Mlp(config, source, f"{prefix}.mlp", group)

    def attention(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what attention adds to the residual stream, plus `addend`.

        `layer` is the block's place in the cache.
        """
        return self._attention(self._attention_norm(x_RE), layer, step, addend)

    def mlp(self, x_RE: Tensor, step: ForwardStep, addend: Tensor | None = None) -> Tensor:
        """Return what the feed-forward block adds to the residual stream, plus `addend`."""
        return self._mlp(self._mlp_norm(x_RE), step, addend)


class Decoder:
    """A decoder-only transformer, or this rank's shard of one."""

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        group: Group,
        *,
        layers: Sequence[int] | None = None,
        head_size: int | None = None,
        device: torch.device,
    ) -> None:
        """Read this rank's part of the model.

        Args:
            config: the model's shape.
            source: its weights.
            group: the ranks it is split over.
            layers: keep these layers only, in this order; None keeps all.
            head_size: rows of `lm_head.weight` where it scores only some of the tokens (a reduced
                head, of a drafter); None is the whole vocabulary.
            device: where the rotary tables live.

        Raises:
            ValueError: the group has more ranks than the model splits over.
        """
        self.config = config
        self.head_shard = head_shard(config.num_heads, config.num_kv_heads, group.size, group.rank)
        vocab_range = padded_range(config.vocab_size, group.size, group.rank)
        self.head_size = head_size or config.vocab_size
        self.head_range = padded_range(self.head_size, group.size, group.rank)
        kept = range(config.num_layers) if layers is None else layers
        embedding = source.read_slice("model.embed_tokens.weight", 0, *vocab_range)
        self._embed = VocabParallelEmbedding(embedding, vocab_range[0], group)
        self.blocks = [Block(config, source, i, self.head_shard, group) for i in kept]
        self._norm = RmsNorm(source.read("model.norm.weight"), config.rms_norm_eps)
        head = embedding
        if head_size is not None or not config.tied_head:
            head = source.read_slice("lm_head.weight", 0, *self.head_range)
        self._head = ColumnParallelLinear(head)
        self._rotary = RotaryTable(
            config.rope, config.head_dim, config.max_positions, device=device
        )
        self._device = device

    def keeping(self, layers: Sequence[int]) -> "Decoder":
        """Return a decoder of only these of its layers, which shares all weights with it."""
        kept = copy(self)
        kept.blocks = [self.blocks[layer] for layer in layers]
        return kept

    def forward(self, rows: Sequence[SequenceRows], cache: PagedCache) -> Tensor:
        """Append the rows to their sequences and return the logits asked for.

        Returns:
            [sum of num_logits, vocab_shard], float32, in the order of the rows.

        Raises:
            ValueError: rows start beyond what their sequence holds, or it has no room for them.
        """
        plans: list[AppendPlan] = []
        wanted: list[int] = []
        first = 0
        for row in rows:
            num_tokens = len(row.token_ids)
            if row.moves:
                cache.keep(row.slot, row.moves, row.start)
            plans.append(cache.plan_append(row.slot, row.start, num_tokens, first))
            first += num_tokens
            wanted += range(first - row.num_logits, first)
        token_ids = [token for row in rows for token in row.token_ids]
        positions = [position for row in rows for position in row.positions]
        x_RE = fill_rows(self._embed(torch.tensor(token_ids, device=self._device)))
        positions += [0] * (len(x_RE) - len(token_ids))
        step = ForwardStep(
            len(token_ids),
            cache,
            plans,
            [self._mask(row, x_RE) for row in rows],
            self._rotary.at(torch.tensor(positions, device=self._device)),
        )
        for layer, block in enumerate(self.blocks):
            x_RE = block.attention(x_RE, layer, step, x_RE)
            x_RE = block.mlp(x_RE, step, x_RE)
        if len(wanted) < len(x_RE):
            x_RE = fill_rows(x_RE[wanted])
        return self._head(self._norm(x_RE))[: len(wanted)].float()

    def _mask(self, row: SequenceRows, like: Tensor) -> Tensor | None:
        """Return the rows' mask, once for each query head that shares a KV head."""
        mask = _mask(row, self.config.sliding_window, like)
        shard = self.head_shard
        return None if mask is None else mask.repeat(shard.num_query // shard.num_kv, 1)


def _mask(row: SequenceRows, window: int | None, like: Tensor) -> Tensor | None:
    """Return 0 where a row may look and -inf elsewhere, [rows, length]; None is all positions.

    Numbers, not booleans: attention would turn those into numbers anew in every layer.
    """
    num_rows = len(row.token_ids)
    length = row.start + num_rows
    sliding = window is not None and length > window
    if num_rows == 1 and not sliding:
        return None
    here = torch.arange(row.start, length, device=like.device).unsqueeze(1)
    there = torch.arange(length, device=like.device).unsqueeze(0)
    hidden = there > here
    if row.parents:
        size = len(row.parents)
        hidden[-size:, -size:] = _strangers(row.parents).to(like.device)
    if sliding:
        assert window is not None
        positions = torch.tensor([*range(row.start), *row.positions], device=like.device)
        hidden |= positions <= positions[row.start :].unsqueeze(1) - window
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)


def _strangers(parents: Sequence[int]) -> Tensor:
    """Return, for each node of a tree, which nodes are neither itself nor an ancestor."""
    lines: list[list[bool]] = []
    for node, parent in enumerate(parents):
        line = lines[parent].copy() if parent >= 0 else [True] * len(parents)
        line[node] = False
        lines.append(line)
    return torch.tensor(lines)
