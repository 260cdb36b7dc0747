"""The parts of a decoder by the kernels of a device, for GPUs.

The residual stream and its normalized form go through all layers side by side, so that the addition
of a block's output and the norm before the next block are one launch. A row's result does not
depend on the rows beside it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_kernels.step_kernels import AttentionRows, HeadNorms, StepKernels, Workspace
from parallel.device_step.drawn_tokens import DrawnTokens, VocabularyPart, drawn_tokens
from parallel.device_step.step_packing import (
    PackingRules,
    SequenceStep,
    Words,
    needed_shape,
    pack,
)
from parallel.device_step.step_shape import StepArrays, StepShape, device_arrays
from parallel.group import Group
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
)
from parallel.model.cache import PagedCache
from parallel.model.layer_weights import AttentionWeights, BlockNorms, MlpWeights
from parallel.model.low_rank import AdaptedPart
from parallel.model.model_config import Activation
from parallel.model.torch_adapters import Adding, TorchAdapterMaker, adding
from parallel.weights.stored_matrix import Matrix, as_float

# Shape suffixes: R = rows of the batch (its tokens, perhaps padded), E = hidden size.

_SPLIT_ROWS = 64
"""With more rows than this, attention fills a device without splitting contexts."""
_WORKSPACE_VALUES = 2**24
"""The most values of a workspace: 64 MiB."""


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """What the rows of one forward attend to, for one kind of attention."""

    rows: AttentionRows
    turns: Tensor
    """As `StepKernels.rotate_and_store` has them."""
    positions: Tensor
    addresses: Tensor
    workspace: Workspace | None


@dataclass(frozen=True, slots=True)
class HostWords:
    """Memory of the host in which a plan is packed, and as a tensor to upload."""

    words: Words
    tensor: Tensor


def host_words(num_words: int) -> HostWords:
    """Return memory for a plan, pinned where there is a GPU, so that its upload does not wait."""
    is_pinned = torch.cuda.is_available()
    tensor = torch.empty(num_words, dtype=torch.int32, pin_memory=is_pinned)
    return HostWords(tensor.numpy(), tensor)


class DeviceBackend(TorchAdapterMaker, Backend):
    """Makes the parts of a decoder from the kernels of a device."""

    def __init__(
        self,
        kernels: StepKernels,
        dtype: torch.dtype,
        allocate: Callable[[int], HostWords] = host_words,
    ) -> None:
        """Take the kernels, the dtype of all numbers, and what allocates memory for a plan."""
        self._kernels = kernels
        self._dtype = dtype
        self._allocate = allocate

    def attention(self, weights: AttentionWeights, group: Group) -> AttentionBlock:
        """Return a layer's attention."""
        return _DeviceAttention(self._kernels, weights, group)

    def mlp(self, weights: MlpWeights, group: Group) -> MlpBlock:
        """Return a layer's feed-forward block."""
        return _DeviceMlp(self._kernels, weights, group)

    def layers(
        self, blocks: Sequence[tuple[AttentionBlock, MlpBlock]], group: Group
    ) -> LayerRunner:
        """Return what runs the blocks with the stream and its normalized form side by side."""
        del group
        return _AllLayers([cast("_DeviceBlock", block) for pair in blocks for block in pair])

    def ends(
        self, norm: Tensor, eps: float, head: Matrix, embedding: Matrix
    ) -> tuple[Head, Lookup]:
        """Return the last norm and product, and the embedding."""
        weight, table = as_float(head), as_float(embedding)

        def score(x_NE: Tensor) -> Tensor:
            normed_NE = torch.empty_like(x_NE)
            self._kernels.norm(x_NE, norm, normed_NE, eps=eps)
            # Not rounded: in bfloat16, whose step is 1/8 from 16 on, best tokens would be equal.
            logits = x_NE.new_empty((len(x_NE), len(weight)), dtype=torch.float32)
            self._kernels.multiply(normed_NE, weight, None, logits)
            return logits

        return score, lambda ids: F.embedding(ids, table)

    def rules(self, cache: PagedCache, layout: AttentionLayout) -> PackingRules:
        """Return how forwards over this cache are packed."""
        group = layout.heads.num_query // layout.heads.num_kv
        return PackingRules(
            page_size=cache.page_size,
            windows=tuple(layout.windows),
            tile_rows=self._kernels.tile_rows(group, self._dtype.itemsize),
        )

    def plan(
        self, rows: Sequence[SequenceRows], cache: PagedCache, layout: AttentionLayout
    ) -> ForwardInputs:
        """Return the rows, packed and uploaded; move what they keep."""
        steps = grown(rows, cache)
        rules = self.rules(cache, layout)
        shape = needed_shape(steps, rules)
        staged = self._allocate(shape.num_words)
        pack(steps, shape, rules, staged.words)
        buffer = torch.empty(shape.num_words, dtype=torch.int32, device=cache.storage.device)
        buffer.copy_(staged.tensor, non_blocking=True)
        arrays = device_arrays(buffer, shape)
        self.move(arrays, cache)
        num_scored = sum(row.num_logits for row in rows)
        return self.inputs(arrays, shape, cache, layout, num_scored)

    def draw(
        self, logits_NV: Tensor, inputs: ForwardInputs, part: VocabularyPart, group: Group
    ) -> DrawnTokens:
        """Return what the scored rows draw."""
        assert inputs.arrays is not None
        return drawn_tokens(self._kernels, logits_NV, inputs.arrays, part, group)

    def move(self, arrays: StepArrays[Tensor], cache: PagedCache) -> None:
        """Move the cached tokens that a packed forward keeps to just before its rows."""
        if len(arrays.moves):
            self._kernels.move(cache.storage.flatten(0, 2), arrays.move_offsets, arrays.moves)

    def inputs(
        self,
        arrays: StepArrays[Tensor],
        shape: StepShape,
        cache: PagedCache,
        layout: AttentionLayout,
        num_scored: int,
    ) -> ForwardInputs:
        """Return what a forward reads from arrays on the device, also if they are filled later."""
        workspace = self._workspace(shape, cache, layout)
        attention = [
            DeviceRows(
                rows=AttentionRows(
                    tiles=arrays.tiles,
                    ranges=arrays.ranges[kind],
                    bits=arrays.bits[kind],
                    trees=arrays.trees,
                    tables=arrays.tables,
                    page_size=cache.page_size,
                ),
                turns=rotary.pairs,
                positions=arrays.positions,
                addresses=arrays.addresses,
                workspace=workspace,
            )
            for kind, rotary in enumerate(layout.rotary)
        ]
        step = ForwardStep(shape.rows, cache, attention)
        return ForwardInputs(arrays.token_ids, arrays.scored, num_scored, step, arrays)

    def _workspace(
        self, shape: StepShape, cache: PagedCache, layout: AttentionLayout
    ) -> Workspace | None:
        """Return where few rows leave partial results, if their contexts have several splits."""
        splits = -(-shape.pages * cache.page_size // self._kernels.split_size())
        places = (splits, shape.rows, layout.heads.num_query)
        head_dim, device = cache.storage.shape[-1], cache.storage.device
        is_large = splits * shape.rows * layout.heads.num_query * head_dim > _WORKSPACE_VALUES
        if splits < 2 or shape.rows > _SPLIT_ROWS or is_large:
            return None
        return Workspace(
            values=torch.empty((*places, head_dim), dtype=torch.float32, device=device),
            stats=torch.empty((*places, 2), dtype=torch.float32, device=device),
        )


def grown(rows: Sequence[SequenceRows], cache: PagedCache) -> list[SequenceStep]:
    """Make room for rows in the cache, and return them with their pages."""
    return [SequenceStep(rows=row, pages=cache.grow(row)) for row in rows]


class _DeviceBlock(ABC):
    """A block of a layer: computes what it adds from the normalized stream."""

    def __init__(self, kernels: StepKernels, norms: BlockNorms, group: Group) -> None:
        self.norms = norms
        self.kernels = kernels
        self._group = group

    @abstractmethod
    def delta(self, normed_RE: Tensor, layer: int, step: ForwardStep) -> Tensor:
        """Return the block's output, summed over the ranks, before the norm behind it."""

    def norm(self, x_RE: Tensor, weight_E: Tensor) -> Tensor:
        """Return x normalized."""
        normed_RE = torch.empty_like(x_RE)
        self.kernels.norm(x_RE, weight_E, normed_RE, eps=self.norms.eps)
        return normed_RE

    def _product(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, adjust: Adding | None
    ) -> Tensor:
        """Return x W^T + bias, and what the rows' adapters add."""
        out = x.new_empty((len(x), len(weight)))
        self.kernels.multiply(x, weight, bias, out)
        if adjust is not None:
            adjust(x, out)
        return out

    def _own(self, bias: Tensor | None) -> Tensor | None:
        """Return the bias of an output that is summed over the ranks, on the rank that adds it."""
        return bias if self._group.rank == 0 else None

    def _alone(self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None) -> Tensor:
        """Return what the block adds to the residual stream, plus `addend`."""
        out_RE = self.delta(self.norm(x_RE, self.norms.before), layer, step)
        if self.norms.after is not None:
            out_RE = self.norm(out_RE, self.norms.after)
        return out_RE if addend is None else out_RE.add_(addend)


class _DeviceAttention(_DeviceBlock):
    """A layer's attention over this rank's heads, with its norms."""

    def __init__(self, kernels: StepKernels, weights: AttentionWeights, group: Group) -> None:
        super().__init__(kernels, weights.norms, group)
        self._qkv = _whole(weights.qkv)
        self._qkv_bias = weights.qkv_bias
        self._output = as_float(weights.output)
        self._output_bias = self._own(weights.output_bias)
        self._head_norms = None
        if weights.query_norm is not None and weights.key_norm is not None:
            self._head_norms = HeadNorms(
                query=weights.query_norm,
                key=weights.key_norm,
                eps=weights.norms.eps,
                adds_one=False,
            )
        self._num_query, self._head_dim = weights.shard.num_query, weights.head_dim
        self._scale, self._kind = weights.scale, weights.kind
        num_kv = weights.shard.num_kv * self._head_dim
        self._parts = {
            AdaptedPart.QUERY: self._num_query * self._head_dim,
            AdaptedPart.KEY: num_kv,
            AdaptedPart.VALUE: num_kv,
        }

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what attention adds to the residual stream, plus `addend`."""
        return self._alone(x_RE, layer, step, addend)

    def delta(self, normed_RE: Tensor, layer: int, step: ForwardStep) -> Tensor:
        """Return attention's output, summed over the ranks; store keys and values."""
        inputs: DeviceRows = step.attention[self._kind]
        num_rows = len(normed_RE)
        cached = step.cache.storage[layer]
        keys_KAD, values_KAD = cached[0], cached[1]
        adjust = adding(step.adapted, layer, self._parts)
        heads_RND = self._product(normed_RE, self._qkv, self._qkv_bias, adjust)
        heads_RND = heads_RND.view(num_rows, -1, self._head_dim)
        self.kernels.rotate_and_store(
            heads_RND,
            inputs.turns,
            inputs.positions,
            inputs.addresses,
            keys_KAD,
            values_KAD,
            norms=self._head_norms,
        )
        query_RHD = heads_RND[:, : self._num_query]
        attended_RHD = query_RHD.new_empty(query_RHD.shape)
        self.kernels.attend(
            query_RHD,
            keys_KAD,
            values_KAD,
            inputs.rows,
            attended_RHD,
            scale=self._scale,
            workspace=inputs.workspace,
        )
        adjust = adding(step.adapted, layer, {AdaptedPart.OUTPUT: normed_RE.shape[1]})
        out_RE = self._product(
            attended_RHD.view(num_rows, -1), self._output, self._output_bias, adjust
        )
        return self._group.all_reduce(out_RE)


class _DeviceMlp(_DeviceBlock):
    """A layer's gated feed-forward block over this rank's columns, with its norms."""

    def __init__(self, kernels: StepKernels, weights: MlpWeights, group: Group) -> None:
        super().__init__(kernels, weights.norms, group)
        self._gate_up = _whole(weights.gate_up)
        self._gate_up_bias = weights.gate_up_bias
        self._down = as_float(weights.down)
        self._down_bias = self._own(weights.down_bias)
        self._is_gelu = weights.activation is Activation.GELU_TANH

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what the feed-forward block adds to the residual stream, plus `addend`."""
        return self._alone(x_RE, layer, step, addend)

    def delta(self, normed_RE: Tensor, layer: int, step: ForwardStep) -> Tensor:
        """Return the block's output, summed over the ranks."""
        num_columns = len(self._gate_up) // 2
        parts = {AdaptedPart.GATE: num_columns, AdaptedPart.UP: num_columns}
        adjust = adding(step.adapted, layer, parts)
        gate_up = self._product(normed_RE, self._gate_up, self._gate_up_bias, adjust)
        inner = gate_up.new_empty((len(gate_up), gate_up.shape[1] // 2))
        self.kernels.gate(gate_up, inner, gelu=self._is_gelu)
        adjust = adding(step.adapted, layer, {AdaptedPart.DOWN: normed_RE.shape[1]})
        return self._group.all_reduce(self._product(inner, self._down, self._down_bias, adjust))


class _AllLayers:
    """Runs the blocks of all layers; two neighbors share the launch between them."""

    def __init__(self, blocks: Sequence[_DeviceBlock]) -> None:
        self._blocks = blocks

    def __call__(self, x_RE: Tensor, step: ForwardStep) -> Tensor:
        """Return the residual stream after all layers."""
        if not self._blocks:
            return x_RE
        stream_RE = x_RE.clone()
        first = self._blocks[0]
        normed_RE = first.norm(stream_RE, first.norms.before)
        # Nothing reads what the last block leaves normalized: the head normalizes scored rows only.
        following = [*self._blocks[1:], first]
        for index, (block, after) in enumerate(zip(self._blocks, following, strict=True)):
            out_RE = block.delta(normed_RE, index // 2, step)
            block.kernels.add_and_norm(
                out_RE,
                stream_RE,
                after.norms.before,
                normed_RE,
                eps=block.norms.eps,
                inner_weight_E=block.norms.after,
            )
        return stream_RE


def _whole(parts: Sequence[Matrix]) -> Tensor:
    """Return matrices one below the other as one."""
    return torch.cat([as_float(part) for part in parts]) if len(parts) > 1 else as_float(parts[0])
