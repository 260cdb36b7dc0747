"""One rank of a model group: carries out step plans on its shard of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from parallel.decoding.layer_width import StackTimes
from parallel.decoding.score_row import ScoreRow
from parallel.group import Group
from parallel.model.batch import SequenceRows
from parallel.model.cache import PagedCache
from parallel.model.stack import LayerParallelStack
from parallel.model.transformer import Decoder
from parallel.model.vocab import gather_scores
from runtime.heartbeat import Pulse
from runtime.rank.stack_times import measure_stack
from runtime.rank.step_plan import StepPlan, decode_plan, encode_plan


@dataclass(frozen=True, slots=True)
class HeadColumns:
    """The tokens that a model scores, and this rank's part of them."""

    size: int
    """Columns of all ranks together."""
    start: int
    """This rank's first one."""
    token_ids: Tensor | None = None
    """[size], rising: the token of each column of a reduced head; None: columns are tokens."""

    def name(self, row: ScoreRow, vocab_size: int) -> ScoreRow:
        """Return a row over tokens in place of columns; tokens the head lacks have no chance."""
        if self.token_ids is None:
            return row
        if row.ids is not None:
            return ScoreRow(row.logits, self.token_ids[row.ids])
        logits = row.logits.new_full((vocab_size,), -torch.inf)
        logits[self.token_ids] = row.logits
        return ScoreRow(logits, None)


class ModelShard(Protocol):
    """This rank's part of a model, with the cache of the sequences it holds."""

    @property
    def vocab_size(self) -> int:
        """Size of the whole vocabulary."""
        ...

    @property
    def max_positions(self) -> int:
        """Longest sequence it can read, in tokens; 0: any that its cache holds."""
        ...

    @property
    def head(self) -> HeadColumns:
        """What the columns of the logits stand for."""
        ...

    def hold(self, slot: int, pages: Sequence[int], length: int) -> None:
        """Give a sequence more pages; a new one holds `length` tokens there already."""
        ...

    def free(self, slot: int) -> None:
        """Release a sequence's cache."""
        ...

    def forward(self, rows: Sequence[SequenceRows], width: int) -> Tensor:
        """Return this rank's logits, [sum of num_logits, vocab_shard], float32.

        `width` is how many layers' attention reads the same input; 1 is the exact forward.
        """
        ...


class DecoderShard:
    """A real model on a real device."""

    def __init__(
        self, decoder: Decoder, cache: PagedCache, head_token_ids: Tensor | None = None
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self.vocab_size = decoder.config.vocab_size
        self.max_positions = decoder.config.max_positions
        self.head = HeadColumns(decoder.head_size, decoder.head_range[0], head_token_ids)

    def hold(self, slot: int, pages: Sequence[int], length: int) -> None:
        """Give the sequence more pages."""
        self._cache.hold(slot, pages, length)

    def free(self, slot: int) -> None:
        """Forget the sequence."""
        self._cache.free(slot)

    def forward(self, rows: Sequence[SequenceRows], width: int) -> Tensor:
        """Run the decoder over the rows."""
        return self._decoder.forward(rows, self._cache, width=width)

    def stack_times(self, group: Group) -> StackTimes:
        """Measure the decoder's parts."""
        return measure_stack(self._decoder, self._cache, group)

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return self._decoder.stack.num_layers

    @property
    def layer_parallel_from(self) -> int:
        """Layers of the decoder before this one always run one after the other."""
        stack = self._decoder.stack
        assert isinstance(stack, LayerParallelStack)
        return stack.first


class ShardRunner:
    """Keeps the ranks of a group in step: rank 0 broadcasts each plan, all carry it out."""

    def __init__(self, model: ModelShard, group: Group, pulse: Pulse | None = None) -> None:
        self.pulse = pulse or Pulse()
        """Told by whoever leads what a plan is for."""
        self._model = model
        self._group = group
        self.vocab_size = model.vocab_size
        self.max_positions = model.max_positions

    def execute(self, plan: StepPlan) -> list[ScoreRow]:
        """Carry out a plan on all ranks (called on rank 0 alone) and return its scores.

        Raises:
            PeerError: a rank did not take part before the group's deadline; names it.
        """
        if self._group.size > 1:
            self._group.broadcast_bytes(encode_plan(plan))
        return self._carry_out(plan)

    def follow(self) -> None:
        """Carry out rank 0's plans until it sends the last one (called on all other ranks)."""
        while True:
            plan = decode_plan(self._group.broadcast_bytes(None))
            self.pulse.at("following")
            self._carry_out(plan)
            if plan.stop:
                return

    def _carry_out(self, plan: StepPlan) -> list[ScoreRow]:
        for slot in plan.frees:
            self._model.free(slot)
        for opening in plan.openings:
            self._model.hold(opening.slot, opening.pages, opening.length)
        if not plan.rows:
            return []
        with torch.inference_mode():
            logits_NV = self._model.forward(plan.rows, plan.width)
            head = self._model.head
            rows = gather_scores(logits_NV, head.start, head.size, plan.num_candidates, self._group)
            return [head.name(row, self.vocab_size) for row in rows]
