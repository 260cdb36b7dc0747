"""One rank of a model group: executes step plans on its shard of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.decoding.layer_width import StackTimes
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import Verdict
from parallel.group import Group
from parallel.model.backend import ForwardOutputs
from parallel.model.cache import PagedCache
from parallel.model.low_rank import Adapter
from parallel.model.stack import LayerParallelStack
from parallel.model.transformer import Decoder
from parallel.model.vocab import gather_scores
from runtime.heartbeat import Pulse
from runtime.rank.drawn_rows import drawn_rows
from runtime.rank.recorded_forwards import RecordedForwards
from runtime.rank.stack_times import measure_stack
from runtime.rank.step_plan import StepPlan, decode_plan, encode_plan


@dataclass(frozen=True, slots=True)
class HeadColumns:
    """The columns of a model's logits, and this rank's part of them."""

    size: int
    """The number of columns of all ranks together."""
    start: int
    """The first column of this rank."""
    token_ids: Tensor | None = None
    """[size], increasing: the token of each column of a reduced head; None: columns are tokens."""

    def over_tokens(self, row: ScoreRow, vocab_size: int) -> ScoreRow:
        """Return a row of columns as a row of tokens; tokens that the head lacks score -inf."""
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
        """The longest sequence it can read, in tokens; 0: limited by the cache alone."""
        ...

    @property
    def head(self) -> HeadColumns:
        """The columns of the logits."""
        ...

    def hold(self, slot: int, pages: Sequence[int], length: int) -> None:
        """Add pages to a sequence; those of a new one already hold `length` tokens."""
        ...

    def free(self, slot: int) -> None:
        """Free a sequence's cache."""
        ...

    def forward(self, rows: Sequence[SequenceRows], width: int) -> ForwardOutputs:
        """Return this rank's logits of the scored rows, and what was drawn from them.

        `width` is how many layers' attention reads the same input; 1 is the exact forward.
        """
        ...


class DecoderShard:
    """A real model on a real device."""

    def __init__(
        self,
        decoder: Decoder,
        cache: PagedCache,
        head_token_ids: Tensor | None = None,
        recorded: RecordedForwards | None = None,
    ) -> None:
        """Take the model; with `recorded`, forwards that were recorded are replayed."""
        self._decoder = decoder
        self._recorded = recorded
        self._cache = cache
        self.vocab_size = decoder.config.vocab_size
        self.max_positions = decoder.config.max_positions
        self.head = HeadColumns(decoder.head_size, decoder.head_range[0], head_token_ids)

    def hold(self, slot: int, pages: Sequence[int], length: int) -> None:
        """Add pages to the sequence."""
        self._cache.hold(slot, pages, length)

    def free(self, slot: int) -> None:
        """Remove the sequence."""
        self._cache.free(slot)

    def forward(self, rows: Sequence[SequenceRows], width: int) -> ForwardOutputs:
        """Run the decoder over the rows."""
        if self._recorded is not None:
            return self._recorded.score(rows, width=width)
        return self._decoder.score(rows, self._cache, width=width)

    def add_adapter(self, adapter: Adapter) -> None:
        """Hold an adapter; raises ValueError if it does not fit the model."""
        self._decoder.add_adapter(adapter)

    def remove_adapter(self, name: str) -> None:
        """Drop an adapter that no later row names."""
        self._decoder.remove_adapter(name)

    def stack_times(self, group: Group) -> StackTimes:
        """Return the measured times of the decoder's parts."""
        return measure_stack(self._decoder, self._cache, group)

    @property
    def num_layers(self) -> int:
        """The number of layers of the decoder."""
        return self._decoder.stack.num_layers

    @property
    def layer_parallel_from(self) -> int:
        """The first layer whose attention can run together with that of others."""
        stack = self._decoder.stack
        assert isinstance(stack, LayerParallelStack)
        return stack.first


@dataclass(frozen=True, slots=True)
class StepScores:
    """What a step found."""

    rows: list[ScoreRow]
    """The scored rows, in the order of the plan."""
    verdicts: list[Verdict | None]
    """For each sequence of the plan, the verdict on the draft whose rows were scored; None where
    the host decides."""


class ShardRunner:
    """Executes the same plans on all ranks of a group; rank 0 broadcasts them."""

    def __init__(self, model: ModelShard, group: Group, pulse: Pulse | None = None) -> None:
        self.pulse = pulse or Pulse()
        """Names what the current plan is for, for the heartbeat."""
        self._model = model
        self._group = group
        self.vocab_size = model.vocab_size
        self.max_positions = model.max_positions

    def execute(self, plan: StepPlan) -> list[ScoreRow]:
        """Execute a plan on all ranks and return its scores; called on rank 0 only.

        Raises:
            PeerError: a rank did not participate before the group's deadline; names the rank.
        """
        return self.decide(plan).rows

    def decide(self, plan: StepPlan) -> StepScores:
        """Execute a plan as `execute`, and return also what its device decided."""
        if self._group.size > 1:
            self._group.broadcast_bytes(encode_plan(plan))
        return self._run(plan)

    def follow(self) -> None:
        """Execute rank 0's plans until the last one; called on all other ranks."""
        while True:
            plan = decode_plan(self._group.broadcast_bytes(None))
            self.pulse.at("following")
            self._run(plan)
            if plan.stop:
                return

    def _run(self, plan: StepPlan) -> StepScores:
        for slot in plan.frees:
            self._model.free(slot)
        for opening in plan.openings:
            self._model.hold(opening.slot, opening.pages, opening.length)
        if not plan.rows:
            return StepScores([], [])
        with torch.inference_mode():
            return self._scores(plan, self._model.forward(plan.rows, plan.width))

    def _scores(self, plan: StepPlan, outputs: ForwardOutputs) -> StepScores:
        """Return what was drawn, and the scores of the rows for which nothing was."""
        drawn = drawn_rows(plan.rows, outputs.drawn)
        rows = drawn.rows
        assert len(rows) == len(outputs.logits), "a row of logits for each scored one"
        missing = [index for index, row in enumerate(rows) if row is None]
        if missing:
            head, logits = self._model.head, outputs.logits
            gathered = gather_scores(
                logits if len(missing) == len(logits) else logits[missing],
                head.start,
                head.size,
                [plan.num_candidates[index] for index in missing],
                self._group,
            )
            for index, row in zip(missing, gathered, strict=True):
                rows[index] = head.over_tokens(row, self.vocab_size)
        return StepScores([row for row in rows if row is not None], drawn.verdicts)
