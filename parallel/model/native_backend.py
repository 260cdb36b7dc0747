"""The parts of a decoder by the native kernels, on CPUs, with activations in float32.

A row's result does not depend on the rows beside it, on the number of threads, or on the pages
that hold its sequence. Ranks add their parts of an output in float64, so that the number of ranks
changes a sum only where it is within 1e-16 of the border between two float32.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_void_p
from typing import cast

import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_step.drawn_tokens import VocabularyPart
from parallel.group import Group
from parallel.kernels.native_library import (
    CAdapters,
    CAttention,
    CCache,
    CMatrix,
    CMlp,
    CNorm,
    CRows,
    NativeLibrary,
)
from parallel.kernels.packed_matrix import PackedMatrix, pack
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
from parallel.model.cache import PagedCache
from parallel.model.layer_weights import AttentionWeights, BlockNorms, MlpWeights
from parallel.model.low_rank import AdaptedRows, ShardAdapter
from parallel.model.model_config import Activation
from parallel.model.native_adapters import NativeAdaptedRows, NativeAdapter
from parallel.model.native_rows import NativeRows, plan_rows
from parallel.weights.stored_matrix import Matrix, num_outputs

_ACTIVATIONS = {Activation.SILU: 0, Activation.GELU_TANH: 1}


class NativeBackend(Backend):
    """Makes the parts of a decoder from the native kernels."""

    def __init__(self, library: NativeLibrary) -> None:
        """Take the loaded library."""
        self._library = library

    def attention(self, weights: AttentionWeights, group: Group) -> AttentionBlock:
        """Return a layer's attention."""
        return _NativeAttention(self._library, weights, group)

    def mlp(self, weights: MlpWeights, group: Group) -> MlpBlock:
        """Return a layer's feed-forward block."""
        return _NativeMlp(self._library, weights, group)

    def layers(
        self, blocks: Sequence[tuple[AttentionBlock, MlpBlock]], group: Group
    ) -> LayerRunner:
        """Return what runs the blocks: in one call, where no rank has to be waited for."""
        if group.size > 1:
            return in_order(blocks)
        native = [(cast("_NativeAttention", a), cast("_NativeMlp", m)) for a, m in blocks]
        return _AllLayers(self._library, native)

    def ends(
        self, norm: Tensor, eps: float, head: Matrix, embedding: Matrix
    ) -> tuple[Head, Lookup]:
        """Return the last norm and product, and the embedding."""
        last = _NativeHead(self._library, norm, eps, pack(head))
        table = last.matrix if head is embedding else pack(embedding)
        return last, table.rows

    def adapter(self, shard: ShardAdapter) -> NativeAdapter:
        """Return a rank's part of an adapter in the kernels' layout."""
        return NativeAdapter(shard)

    def plan_adapters(self, rows: AdaptedRows) -> NativeAdaptedRows:
        """Return the adapters of a forward's rows as the kernels take them."""
        return NativeAdaptedRows(rows)

    def draw(
        self, logits_NV: Tensor, inputs: ForwardInputs, part: VocabularyPart, group: Group
    ) -> None:
        """Leave the draws to the host, which is where the logits are."""
        del logits_NV, inputs, part, group

    def plan(
        self, rows: Sequence[SequenceRows], cache: PagedCache, layout: AttentionLayout
    ) -> ForwardInputs:
        """Return the rows with the addresses that each attends to, for each kind of attention."""
        plans = cache.append(rows)
        numbers = RowNumbers.of(rows, torch.device("cpu"))
        turns = [rotary.at(numbers.positions) for rotary in layout.rotary]
        planned = plan_rows(rows, plans, cache, windows=layout.windows, turns=turns)
        return numbers.inputs(cache, planned)


def _adapters_of(step: ForwardStep) -> CAdapters | None:
    """Return the adapters of a forward's rows; None where no row has one."""
    rows: NativeAdaptedRows | None = step.adapted
    return None if rows is None else rows.parts


class _Memory:
    """The structures of one part, and the tensors that they point into."""

    def __init__(self) -> None:
        self._held: list[object] = []

    def pointer(self, tensor: Tensor | None) -> int | None:
        """Return the address of a copy of a tensor's values, in float32.

        A tensor may be a part of a mapped file, which disappears when the file is replaced.
        """
        if tensor is None:
            return None
        values = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        self._held.append(values)
        return values.data_ptr()

    def norm(self, weight: Tensor | None, eps: float) -> CNorm:
        """Return the description of a norm."""
        return CNorm(self.pointer(weight), eps)

    def norms(self, norms: BlockNorms) -> tuple[CNorm, CNorm]:
        """Return the descriptions of the norms before and after a block."""
        return self.norm(norms.before, norms.eps), self.norm(norms.after, norms.eps)

    def matrix(self, packed: PackedMatrix, bias: Tensor | None) -> CMatrix:
        """Return the description of a weight."""
        self._held.append(packed)
        return CMatrix.of(packed, self.pointer(bias))

    def matrices(self, parts: Sequence[Matrix], bias: Tensor | None) -> list[CMatrix]:
        """Return the descriptions of weights one below the other, and their common bias."""
        biases: Sequence[Tensor | None] = [None] * len(parts)
        if bias is not None:
            biases = torch.split(bias, [num_outputs(part) for part in parts])
        return [self.matrix(pack(part), b) for part, b in zip(parts, biases, strict=True)]


class _NativeHead:
    """The last norm and product of a model."""

    def __init__(
        self, library: NativeLibrary, norm: Tensor, eps: float, matrix: PackedMatrix
    ) -> None:
        self._library = library
        self._memory = _Memory()
        self.matrix = matrix
        self._norm = self._memory.norm(norm, eps)
        self._matrix = self._memory.matrix(matrix, None)

    def __call__(self, x_NE: Tensor) -> Tensor:
        """Return logits, [n, vocab shard] float32, of the residual stream, [n, E]."""
        x_NE = x_NE.contiguous()
        logits = torch.empty(len(x_NE), self.matrix.num_rows)
        self._library.linear(
            byref(self._matrix),
            byref(self._norm),
            x_NE.data_ptr(),
            len(x_NE),
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        return logits


class _NativeBlock:
    """A block of a layer: calls its kernel, and sums its output over the ranks."""

    parts: CAttention | CMlp

    def __init__(self, library: NativeLibrary, group: Group) -> None:
        self._library = library
        self._group = group
        self._memory = _Memory()

    def _own(self, bias: Tensor | None) -> Tensor | None:
        """Return the bias of an output that is summed over the ranks, on the rank that adds it."""
        return bias if self._group.rank == 0 else None

    def _summed(self, sums_RE: Tensor, addend: Tensor | None) -> Tensor:
        """Return the ranks' parts of an output, added up and normalized, plus the addend."""
        out_RE = self._group.all_reduce(sums_RE).float()
        if self.parts.after.weight is not None:
            self._library.norm(
                out_RE.data_ptr(),
                byref(self.parts.after),
                None if addend is None else addend.data_ptr(),
                out_RE.data_ptr(),
                *out_RE.shape,
                torch.get_num_threads(),
            )
            return out_RE
        return out_RE if addend is None else out_RE.add_(addend)


class _NativeAttention(_NativeBlock):
    """A layer's attention over this rank's heads, with its norms."""

    parts: CAttention

    def __init__(self, library: NativeLibrary, weights: AttentionWeights, group: Group) -> None:
        super().__init__(library, group)
        before, after = self._memory.norms(weights.norms)
        qkv = self._memory.matrices(weights.qkv, weights.qkv_bias)
        self.parts = CAttention(
            before=before,
            after=after,
            query_norm=self._memory.norm(weights.query_norm, weights.norms.eps),
            key_norm=self._memory.norm(weights.key_norm, weights.norms.eps),
            qkv=(CMatrix * 3)(*qkv),
            output=self._memory.matrix(pack(weights.output), self._own(weights.output_bias)),
            num_qkv=len(qkv),
            num_query=weights.shard.num_query,
            num_kv=weights.shard.num_kv,
            head_dim=weights.head_dim,
            kind=weights.kind,
            scale=weights.scale,
        )

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what attention adds to the residual stream, plus `addend`."""
        rows: NativeRows = step.attention[self.parts.kind]
        storage = step.cache.storage
        cache = CCache(storage[layer].data_ptr(), storage.shape[3])
        is_alone = self._group.size == 1
        out_RE = torch.empty(x_RE.shape, dtype=torch.float32 if is_alone else torch.float64)
        self._library.attention(
            byref(self.parts),
            byref(rows.parts),
            byref(cache),
            _adapters_of(step),
            layer,
            x_RE.data_ptr(),
            None if addend is None else addend.data_ptr(),
            out_RE.data_ptr() if is_alone else None,
            None if is_alone else out_RE.data_ptr(),
            torch.get_num_threads(),
        )
        return out_RE if is_alone else self._summed(out_RE, addend)


class _NativeMlp(_NativeBlock):
    """A layer's gated feed-forward block over this rank's columns, with its norms."""

    parts: CMlp

    def __init__(self, library: NativeLibrary, weights: MlpWeights, group: Group) -> None:
        super().__init__(library, group)
        before, after = self._memory.norms(weights.norms)
        gate_up = self._memory.matrices(weights.gate_up, weights.gate_up_bias)
        self.parts = CMlp(
            before=before,
            after=after,
            gate_up=(CMatrix * 2)(*gate_up),
            down=self._memory.matrix(pack(weights.down), self._own(weights.down_bias)),
            num_gate_up=len(gate_up),
            inner=weights.num_columns,
            activation=_ACTIVATIONS[weights.activation],
        )

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what the feed-forward block adds to the residual stream, plus `addend`."""
        is_alone = self._group.size == 1
        out_RE = torch.empty(x_RE.shape, dtype=torch.float32 if is_alone else torch.float64)
        self._library.mlp(
            byref(self.parts),
            len(x_RE),
            _adapters_of(step),
            layer,
            x_RE.data_ptr(),
            None if addend is None else addend.data_ptr(),
            out_RE.data_ptr() if is_alone else None,
            None if is_alone else out_RE.data_ptr(),
            torch.get_num_threads(),
        )
        return out_RE if is_alone else self._summed(out_RE, addend)


class _AllLayers:
    """Runs all layers of a rank that holds them whole, in one call."""

    def __init__(
        self, library: NativeLibrary, blocks: Sequence[tuple[_NativeAttention, _NativeMlp]]
    ) -> None:
        self._library = library
        self._blocks = blocks
        pointers = c_void_p * len(blocks)
        self._attentions = pointers(*(ctypes.addressof(a.parts) for a, _ in blocks))
        self._mlps = pointers(*(ctypes.addressof(m.parts) for _, m in blocks))

    def __call__(self, x_RE: Tensor, step: ForwardStep) -> Tensor:
        """Return the residual stream after all layers."""
        storage = step.cache.storage
        rows = (CRows * len(step.attention))(*(rows.parts for rows in step.attention))
        out_RE = x_RE.clone(memory_format=torch.contiguous_format)
        self._library.layers(
            self._attentions,
            self._mlps,
            len(self._blocks),
            rows,
            byref(CCache(storage.data_ptr(), storage.shape[3])),
            storage.stride(0),
            _adapters_of(step),
            out_RE.data_ptr(),
            torch.get_num_threads(),
        )
        return out_RE
