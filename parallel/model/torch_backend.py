"""The parts of a decoder by torch's operators, on any device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_step.drawn_tokens import VocabularyPart
from parallel.group import Group
from parallel.kernels.row_invariance import Product
from parallel.kernels.torch_products import TorchProducts, embedding_rows
from parallel.model.backend import (
    AttentionBlock,
    AttentionLayout,
    Backend,
    ForwardInputs,
    ForwardStep,
    Head,
    LayerRunner,
    Lookup,
    MlpBlock,
    RowNumbers,
    in_order,
)
from parallel.model.cache import AppendPlan, PagedCache
from parallel.model.layer_weights import AttentionWeights, BlockNorms, MlpWeights
from parallel.model.layers import (
    ColumnParallelLinear,
    Kernel,
    KernelMaker,
    RmsNorm,
    RowParallelLinear,
    fill_rows,
    float_kernel,
)
from parallel.model.low_rank import AdaptedPart
from parallel.model.model_config import Activation
from parallel.model.rope import rotate_
from parallel.model.sharding import HeadShard
from parallel.model.torch_adapters import TorchAdapterMaker, adding
from parallel.weights.stored_matrix import Matrix

# Shape suffixes: R = rows of the batch (its tokens, perhaps padded), T = tokens of a sequence,
# E = hidden size, N = heads, K = KV heads, G = query heads of a KV head, D = head_dim.

_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    Activation.SILU: F.silu,
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """What all layers with the same kind of attention share in one forward."""

    plans: Sequence[AppendPlan]
    masks: Sequence[Tensor | None]
    """For each plan, what is added to its attention scores, [G * T, length]; None is nothing."""
    turns: Tensor
    """What `rotate_` takes for the rows' positions."""


class TorchBackend(TorchAdapterMaker, Backend):
    """Makes the parts of a decoder from torch's operators."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Take the dtype of activations."""
        self._dtype = dtype
        self._products = TorchProducts()
        self._fills_rows = False
        """Whether any weight has a kernel that is faster with more rows."""

    def attention(self, weights: AttentionWeights, group: Group) -> AttentionBlock:
        """Return a layer's attention."""
        return TorchAttention(weights, group, self._kernel)

    def mlp(self, weights: MlpWeights, group: Group) -> MlpBlock:
        """Return a layer's feed-forward block."""
        return TorchMlp(weights, group, self._kernel)

    def layers(
        self, blocks: Sequence[tuple[AttentionBlock, MlpBlock]], group: Group
    ) -> LayerRunner:
        """Return what calls the blocks in order."""
        del group
        return in_order(blocks)

    def ends(
        self, norm: Tensor, eps: float, head: Matrix, embedding: Matrix
    ) -> tuple[Head, Lookup]:
        """Return the last norm and product, and the embedding."""
        last_norm = RmsNorm(norm, eps)
        linear = ColumnParallelLinear(
            [head], None, partial(self._kernel, make_product=self._products.head_product)
        )

        def score(x_NE: Tensor) -> Tensor:
            return linear(last_norm(self.pad(x_NE)))[: len(x_NE)].float()

        def look_up(ids: Tensor) -> Tensor:
            return embedding_rows(embedding, ids).to(self._dtype)

        return score, look_up

    def _kernel(
        self,
        matrix: Matrix,
        bias: Tensor | None,
        make_product: Callable[[Matrix], Product] | None = None,
    ) -> Kernel:
        """Return the kernel of a weight of the activations' dtype, or of any other."""
        if isinstance(matrix, Tensor) and matrix.dtype == self._dtype:
            self._fills_rows = True
            return float_kernel(matrix, bias)
        product = (make_product or self._products.product)(matrix)

        def kernel(x: Tensor, addend: Tensor | None) -> Tensor:
            out = product(x)
            if bias is not None:
                out.add_(bias)
            return out if addend is None else out.add_(addend)

        return kernel

    def pad(self, x_RE: Tensor) -> Tensor:
        """Return the rows, followed by zero rows where products are faster with more."""
        return fill_rows(x_RE) if self._fills_rows else x_RE

    def draw(
        self, logits_NV: Tensor, inputs: ForwardInputs, part: VocabularyPart, group: Group
    ) -> None:
        """Leave the draws to the host, which is where the logits are."""
        del logits_NV, inputs, part, group

    def plan(
        self, rows: Sequence[SequenceRows], cache: PagedCache, layout: AttentionLayout
    ) -> ForwardInputs:
        """Return the rows with masks and rotations for each kind of attention."""
        plans = cache.append(rows)
        device = cache.storage.device
        numbers = RowNumbers.of(rows, device)
        num_tokens = len(numbers.positions)
        num_rows = len(self.pad(torch.empty(num_tokens, 1, dtype=self._dtype, device=device)))
        at = F.pad(numbers.positions, (0, num_rows - num_tokens))
        repeats = layout.heads.num_query // layout.heads.num_kv
        attention: list[AttentionInputs] = []
        for window, rotary in zip(layout.windows, layout.rotary, strict=True):
            masks = [_mask(row, window, device, self._dtype) for row in rows]
            repeated = [None if mask is None else mask.repeat(repeats, 1) for mask in masks]
            attention.append(AttentionInputs(plans, repeated, rotary.at(at)))
        return numbers.inputs(cache, attention)


class TorchAttention:
    """A layer's attention over this rank's heads, with its norms."""

    def __init__(self, weights: AttentionWeights, group: Group, make_kernel: KernelMaker) -> None:
        self._norms = _Norms(weights.norms)
        self._qkv = ColumnParallelLinear(weights.qkv, weights.qkv_bias, make_kernel)
        self._output = RowParallelLinear(weights.output, group, weights.output_bias, make_kernel)
        self._head_norms = None
        if weights.query_norm is not None and weights.key_norm is not None:
            self._head_norms = [
                RmsNorm(weight, weights.norms.eps)
                for weight in (weights.query_norm, weights.key_norm)
            ]
        self._kind, self._scale = weights.kind, weights.scale
        self._shard: HeadShard = weights.shard
        self._head_dim = weights.head_dim

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what attention adds to the residual stream, plus `addend`."""
        attended_RE = self._attended(self._norms.before(x_RE), layer, step)
        adjust = adding(step.adapted, layer, {AdaptedPart.OUTPUT: x_RE.shape[1]})
        if self._norms.after is None:
            return self._output(attended_RE, addend, step.num_tokens, adjust)
        out_RE = self._output(attended_RE, None, step.num_tokens, adjust)
        return self._norms.finish(out_RE, addend)

    def _attended(self, x_RE: Tensor, layer: int, step: ForwardStep) -> Tensor:
        """Return the heads' outputs, [R, query heads * head_dim]; store new keys and values."""
        num_q, num_kv = self._shard.num_query, self._shard.num_kv
        qkv = self._qkv(x_RE)
        dim = self._head_dim
        parts = {
            AdaptedPart.QUERY: num_q * dim,
            AdaptedPart.KEY: num_kv * dim,
            AdaptedPart.VALUE: num_kv * dim,
        }
        if (adjust := adding(step.adapted, layer, parts)) is not None:
            adjust(x_RE, qkv)
        heads_RND = qkv.view(len(x_RE), num_q + 2 * num_kv, dim)
        qk_RND = heads_RND[:, : num_q + num_kv]
        if self._head_norms is not None:
            q_norm, k_norm = self._head_norms
            qk_RND[:, :num_q] = q_norm(qk_RND[:, :num_q])
            qk_RND[:, num_q:] = k_norm(qk_RND[:, num_q:])
        inputs: AttentionInputs = step.attention[self._kind]
        rotate_(qk_RND, inputs.turns)
        attended_RND = x_RE.new_zeros((len(x_RE), num_q, self._head_dim))
        for plan, mask in zip(inputs.plans, inputs.masks, strict=True):
            rows = slice(plan.first_row, plan.stop_row)
            keys, values = step.cache.extend(layer, plan, heads_RND[rows, num_q:])
            attended_NTD = self._attend(heads_RND[rows, :num_q], keys, values, mask)
            attended_RND[rows] = attended_NTD.transpose(0, 1)
        return attended_RND.view(len(x_RE), -1)

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


class TorchMlp:
    """A layer's gated feed-forward block over this rank's columns, with its norms."""

    def __init__(self, weights: MlpWeights, group: Group, make_kernel: KernelMaker) -> None:
        self._norms = _Norms(weights.norms)
        self._gate_up = ColumnParallelLinear(weights.gate_up, weights.gate_up_bias, make_kernel)
        self._activate = _ACTIVATIONS[weights.activation]
        self._down = RowParallelLinear(weights.down, group, weights.down_bias, make_kernel)

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what the feed-forward block adds to the residual stream, plus `addend`."""
        normed_RE = self._norms.before(x_RE)
        both = self._gate_up(normed_RE)
        columns = both.shape[1] // 2
        parts = {AdaptedPart.GATE: columns, AdaptedPart.UP: columns}
        if (adjust := adding(step.adapted, layer, parts)) is not None:
            adjust(normed_RE, both)
        gate, up = both.chunk(2, dim=-1)
        inner = self._activate(gate).mul_(up)
        adjust = adding(step.adapted, layer, {AdaptedPart.DOWN: x_RE.shape[1]})
        if self._norms.after is None:
            return self._down(inner, addend, step.num_tokens, adjust)
        return self._norms.finish(self._down(inner, None, step.num_tokens, adjust), addend)


class _Norms:
    """The norm before a block, and the one after it if there is one."""

    def __init__(self, norms: BlockNorms) -> None:
        self.before = RmsNorm(norms.before, norms.eps)
        self.after = None if norms.after is None else RmsNorm(norms.after, norms.eps)

    def finish(self, out_RE: Tensor, addend: Tensor | None) -> Tensor:
        """Return a block's output, summed over the ranks, normalized, plus `addend`."""
        assert self.after is not None
        normed_RE = self.after(out_RE)
        return normed_RE if addend is None else normed_RE.add_(addend)


def _mask(
    row: SequenceRows, window: int | None, device: torch.device, dtype: torch.dtype
) -> Tensor | None:
    """Return 0 where a row attends and -inf elsewhere, [rows, length]; None is all positions.

    Numbers, not booleans: attention would convert those to numbers again in every layer.
    """
    num_rows = len(row.token_ids)
    length = row.start + num_rows
    sliding = window is not None and length > window
    if num_rows == 1 and not sliding:
        return None
    here = torch.arange(row.start, length, device=device).unsqueeze(1)
    there = torch.arange(length, device=device).unsqueeze(0)
    hidden = there > here
    if row.parents:
        size = len(row.parents)
        hidden[-size:, -size:] = _not_ancestors(row.parents)[-num_rows:].to(device)
    if sliding:
        assert window is not None
        positions = torch.tensor(row.all_positions, device=device)
        hidden |= positions <= positions[row.start :].unsqueeze(1) - window
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)


def _not_ancestors(parents: Sequence[int]) -> Tensor:
    """Return, for each node of a tree, which nodes are neither itself nor an ancestor."""
    lines: list[list[bool]] = []
    for node, parent in enumerate(parents):
        line = lines[parent].copy() if parent >= 0 else [True] * len(parents)
        line[node] = False
        lines.append(line)
    return torch.tensor(lines)
