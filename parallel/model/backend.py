"""What computes the parts of a decoder: torch's operators, or our native kernels on CPUs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_step.drawn_tokens import DrawnTokens, VocabularyPart
from parallel.device_step.step_shape import StepArrays
from parallel.group import Group
from parallel.model.cache import PagedCache
from parallel.model.layer_weights import AttentionWeights, MlpWeights
from parallel.model.low_rank import AdaptedRows, ShardAdapter
from parallel.model.rope import RotaryTable
from parallel.model.sharding import HeadShard
from parallel.weights.stored_matrix import Matrix

# Shape suffixes: R = rows of the batch (its tokens, perhaps padded), E = hidden size.


@dataclass(frozen=True, slots=True)
class ForwardStep:
    """What all layers of one forward share."""

    num_tokens: int
    """Rows of the batch without the padding below them."""
    cache: PagedCache
    attention: Sequence[Any]
    """One for each kind of attention that the model has: what the backend's `plan` returned."""
    adapted: Any = None
    """What the backend's `plan_adapters` returned; None where no row has an adapter."""


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """What one forward reads, on the device; all that the host decides is decided."""

    token_ids: Tensor
    """[tokens], and for some backends padding; integers."""
    scored: Tensor
    """Indices of the rows whose logits are computed, and for some backends padding; integers."""
    num_scored: int
    """Scored rows without the padding below them."""
    step: ForwardStep
    arrays: StepArrays[Tensor] | None = None
    """The packed step; None for a backend that draws no tokens."""

    def adapted_by(self, adapted: Any) -> "ForwardInputs":
        """Return the same forward with adapters (`ForwardStep.adapted`)."""
        return replace(self, step=replace(self.step, adapted=adapted))


@dataclass(frozen=True, slots=True)
class ForwardOutputs:
    """What one forward computes."""

    logits: Tensor
    """[num_scored, vocab shard], float32."""
    drawn: DrawnTokens | None = None
    """What the scored rows draw, the same on every rank; None where only the host draws."""


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """The rows of one forward, for backends that take each number by itself; int64."""

    token_ids: Tensor
    """[rows]."""
    positions: Tensor
    """[rows]."""
    scored: Tensor
    """Indices of the rows whose logits are computed."""

    @classmethod
    def of(cls, rows: Sequence[SequenceRows], device: torch.device) -> "RowNumbers":
        """Return the numbers of these rows."""
        scored: list[int] = []
        stop = 0
        for row in rows:
            stop += len(row.token_ids)
            scored += range(stop - row.num_logits, stop)
        token_ids = [token for row in rows for token in row.token_ids]
        positions = [position for row in rows for position in row.positions]
        return cls(
            token_ids=torch.tensor(token_ids, device=device),
            positions=torch.tensor(positions, device=device),
            scored=torch.tensor(scored, dtype=torch.int64, device=device),
        )

    def inputs(self, cache: PagedCache, attention: Sequence[Any]) -> ForwardInputs:
        """Return what a forward over the rows reads; see `ForwardStep`."""
        step = ForwardStep(len(self.token_ids), cache, attention)
        return ForwardInputs(self.token_ids, self.scored, len(self.scored), step)


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """What the attention of a model's layers has in common on one rank."""

    heads: HeadShard
    """The heads of this rank."""
    windows: Sequence[int | None]
    """For each kind of attention, the positions that it looks back over; None is all."""
    rotary: Sequence[RotaryTable]
    """For each kind, the rotations of all positions."""


class AttentionBlock(Protocol):
    """A layer's attention, with its norms."""

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what attention adds to the residual stream, plus `addend`; store keys and values.

        `layer` is the block's index in this rank's cache, and among the layers of adapters.
        """
        ...


class MlpBlock(Protocol):
    """A layer's feed-forward block, with its norms."""

    def __call__(
        self, x_RE: Tensor, layer: int, step: ForwardStep, addend: Tensor | None = None
    ) -> Tensor:
        """Return what the feed-forward block adds to the residual stream, plus `addend`.

        `layer` is the block's index among the layers of adapters.
        """
        ...


Head = Callable[[Tensor], Tensor]
"""The last norm and product: the residual stream, [n, E], to logits, [n, vocab shard] float32."""
Lookup = Callable[[Tensor], Tensor]
"""Rows of a matrix: their numbers, [n] int64, to [n, columns]."""
LayerRunner = Callable[[Tensor, ForwardStep], Tensor]
"""Runs layers one after the other: returns the residual stream after them, [R, E]."""


def in_order(blocks: Sequence[tuple[AttentionBlock, MlpBlock]]) -> LayerRunner:
    """Return what calls the blocks of the layers one after the other."""

    def run(x_RE: Tensor, step: ForwardStep) -> Tensor:
        for layer, (attention, mlp) in enumerate(blocks):
            x_RE = attention(x_RE, layer, step, x_RE)
            x_RE = mlp(x_RE, layer, step, x_RE)
        return x_RE

    return run


class Backend(Protocol):
    """Makes a model's parts from their weights; all parts of a model have the same backend."""

    def attention(self, weights: AttentionWeights, group: Group) -> AttentionBlock:
        """Return a layer's attention, whose output is summed over the group."""
        ...

    def mlp(self, weights: MlpWeights, group: Group) -> MlpBlock:
        """Return a layer's feed-forward block, whose output is summed over the group."""
        ...

    def layers(
        self, blocks: Sequence[tuple[AttentionBlock, MlpBlock]], group: Group
    ) -> LayerRunner:
        """Return what runs these layers, made by this backend, one after the other."""
        ...

    def ends(
        self, norm: Tensor, eps: float, head: Matrix, embedding: Matrix
    ) -> tuple[Head, Lookup]:
        """Return the last norm and product of a model, and its embedding.

        `head` is `embedding` where a model has one matrix for both, which is then held once.
        """
        ...

    def pad(self, x_RE: Tensor) -> Tensor:
        """Return the rows, followed by zero rows where products are faster with more."""
        return x_RE

    def adapter(self, shard: ShardAdapter) -> Any:
        """Return a rank's part of an adapter as this backend holds it."""
        ...

    def plan_adapters(self, rows: AdaptedRows) -> Any:
        """Return what the blocks need for the adapters of a forward's rows.

        Args:
            rows: which row has which adapter; the adapters are what `adapter` returned.
        """
        ...

    def plan(
        self, rows: Sequence[SequenceRows], cache: PagedCache, layout: AttentionLayout
    ) -> ForwardInputs:
        """Append rows to their sequences in the cache, and return what a forward over them reads.

        Args:
            rows: the new tokens of each sequence.
            cache: this rank's.
            layout: of the attention that reads it.

        Raises:
            ValueError: rows start beyond their sequence, or its pages cannot hold them.
        """
        ...

    def draw(
        self, logits_NV: Tensor, inputs: ForwardInputs, part: VocabularyPart, group: Group
    ) -> DrawnTokens | None:
        """Return what the scored rows draw, without a wait for the device; None: nothing.

        Args:
            logits_NV: this rank's logits.
            inputs: of the forward.
            part: the tokens that they are of.
            group: the ranks; all call it.
        """
        ...
