"""The toy model on a device that draws: its tokens come back with its logits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_kernels.step_kernels import UNDECIDED, StepKernels
from parallel.device_step.drawn_tokens import DrawnTokens, VocabularyPart, drawn_tokens
from parallel.device_step.step_packing import PackingRules, SequenceStep, needed_shape, pack
from parallel.device_step.step_shape import device_arrays
from parallel.group import SoloGroup
from parallel.model.backend import ForwardOutputs
from runtime.rank.toy_shard import PrefixShard


class UndecidedKernels(PlainKernels):
    """Cannot rank the tokens of some rows."""

    def __init__(self, every: int) -> None:
        """Leave each row whose number is a multiple of `every` to the host; none if it is 0."""
        self._every = every

    def choose_tokens(self, candidates_LC3: Tensor, draws_L4: Tensor, tokens_L: Tensor) -> None:
        super().choose_tokens(candidates_LC3, draws_L4, tokens_L)
        if self._every:
            tokens_L[:: self._every] = UNDECIDED


def drawn_from(kernels: StepKernels, rows: Sequence[SequenceRows], logits: Tensor) -> DrawnTokens:
    """Return what a device draws from the logits of a step, from the plan that it gets."""
    rules = PackingRules(page_size=1, windows=(None,), tile_rows=1)
    steps = [SequenceStep(rows=row, pages=range(row.start + len(row.token_ids))) for row in rows]
    shape = needed_shape(steps, rules)
    buffer = np.empty(shape.num_words, dtype=np.int32)
    pack(steps, shape, rules, buffer)
    arrays = device_arrays(torch.from_numpy(buffer), shape)
    part = VocabularyPart(first=0, widest=logits.shape[1])
    return drawn_tokens(kernels, logits, arrays, part, SoloGroup())


class DrawingShard(PrefixShard):
    """Draws every row; logits from which a token was drawn are then poisoned.

    So no output that is right can come from logits that the host should not read.
    """

    def __init__(
        self, vocab_size: int, *, page_size: int, noise: float = 0.0, undecided_every: int = 0
    ) -> None:
        """Make the toy, with `UndecidedKernels` of `undecided_every`."""
        super().__init__(vocab_size, page_size=page_size, noise=noise)
        self._kernels = UndecidedKernels(undecided_every)
        self.num_drawn = 0
        """Tokens that the host needed no logits for."""
        self.num_scored = 0
        """Rows whose logits were wanted."""

    def forward(self, rows: Sequence[SequenceRows], width: int) -> ForwardOutputs:
        """Return the toy's logits, and tokens drawn from them."""
        logits = super().forward(rows, width).logits
        drawn = drawn_from(self._kernels, rows, logits)
        tokens = drawn.tokens
        is_drawn = [row.draw is not None for row in rows for _ in range(row.num_logits)]
        poisoned = torch.tensor(is_drawn, dtype=torch.bool) & (tokens >= 0)
        slots = [row.slot for row in rows for _ in range(row.num_logits)]
        is_request = torch.tensor(slots, dtype=torch.int64) > 0  # 0 only measures times
        self.num_drawn += int((poisoned & is_request).sum())
        self.num_scored += int((~poisoned & is_request).sum())
        return ForwardOutputs(logits.masked_fill(poisoned[:, None], torch.nan), drawn)
