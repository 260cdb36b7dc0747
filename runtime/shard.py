"""One rank of a model group: carries out step plans on its shard of the model."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from parallel.decoding.types import ScoreRow
from parallel.group import Group
from parallel.model.batch import SequenceRows
from parallel.model.cache import PagedCache
from parallel.model.transformer import Decoder
from parallel.model.vocab import gather_scores
from runtime.plan import StepPlan, decode_plan, encode_plan


class ModelShard(Protocol):
    """This rank's part of a model, with the cache of the sequences it holds."""

    @property
    def vocab_size(self) -> int:
        """Size of the whole vocabulary."""
        ...

    @property
    def vocab_start(self) -> int:
        """First token of this rank's part of the vocabulary."""
        ...

    def open(self, slot: int, capacity: int) -> None:
        """Reserve cache for `capacity` tokens of a new sequence."""
        ...

    def free(self, slot: int) -> None:
        """Release a sequence's cache."""
        ...

    def forward(self, rows: Sequence[SequenceRows]) -> Tensor:
        """Return this rank's logits, [sum of num_logits, vocab_shard], float32."""
        ...


class DecoderShard:
    """A real model on a real device."""

    def __init__(self, decoder: Decoder, cache: PagedCache) -> None:
        self._decoder = decoder
        self._cache = cache
        self.vocab_size = decoder.config.vocab_size
        self.vocab_start = decoder.vocab_range[0]

    def open(self, slot: int, capacity: int) -> None:
        """Reserve pages for the sequence."""
        self._cache.open(slot, capacity)

    def free(self, slot: int) -> None:
        """Return the sequence's pages."""
        self._cache.free(slot)

    def forward(self, rows: Sequence[SequenceRows]) -> Tensor:
        """Run the decoder over the rows."""
        return self._decoder.forward(rows, self._cache)


class ShardRunner:
    """Keeps the ranks of a group in step: rank 0 broadcasts each plan, all carry it out."""

    def __init__(self, model: ModelShard, group: Group) -> None:
        self._model = model
        self._group = group
        self.vocab_size = model.vocab_size

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
            self._carry_out(plan)
            if plan.stop:
                return

    def _carry_out(self, plan: StepPlan) -> list[ScoreRow]:
        for slot in plan.frees:
            self._model.free(slot)
        for opening in plan.openings:
            self._model.open(opening.slot, opening.capacity)
        if not plan.rows:
            return []
        with torch.inference_mode():
            logits_NV = self._model.forward(plan.rows)
            return gather_scores(
                logits_NV,
                self._model.vocab_start,
                self._model.vocab_size,
                plan.num_candidates,
                self._group,
            )
