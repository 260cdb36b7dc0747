"""A request's constraint where it is drafted for: drafts are drawn from what may follow.

The target masks in any case. A drafter that lacks the constraint drafts tokens that are rejected;
one that has it masks before it draws, so that its probabilities are those it drew from.
"""

from collections.abc import Sequence

import torch

from parallel.decoding.constraint import (
    ConstraintBroken,
    ConstraintState,
    after,
    forced_tokens,
    masked,
)
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import ConstraintKind
from parallel.messages import DraftOpen
from runtime.constraints.compiler import Compiled, Constraints
from runtime.errors import InvalidValue

_NUM_KEPT = 64
"""States that are kept at least: drafts are cut from the end."""


class DraftConstraint:
    """The states of one request's constraint along its tokens, which drafts extend and cut.

    Until the constraint is compiled, and where it cannot be, nothing is known of any text.
    """

    def __init__(self, opened: DraftOpen) -> None:
        self.end_ids = opened.sampling.end_ids
        self._num_prompt = opened.num_prompt
        self._min_tokens = opened.sampling.min_tokens
        self._states: list[ConstraintState | None] = []
        """After the first `_num_dropped` tokens of `_output`, and after each one since."""
        self._output: list[int] = []
        self._num_dropped = 0
        self._start: ConstraintState | None = None

    def begin(self, found: Compiled) -> None:
        """Take the compiled constraint; may be called from any thread."""
        if not isinstance(found, InvalidValue):  # the target rejects the request
            self._start = found

    def after(self, token_ids: Sequence[int]) -> ConstraintState | None:
        """Return the state after a text; None if it has ended, or is illegal: a draft can be."""
        if self._start is None:
            return None
        output = list(token_ids[self._num_prompt :])
        kept = min(len(output), len(self._output))
        if output[:kept] != self._output[:kept]:
            pairs = zip(output, self._output, strict=False)
            kept = next(place for place, (new, old) in enumerate(pairs) if new != old)
        if not self._states or kept < self._num_dropped:
            self._states, self._num_dropped, kept = [self._start], 0, 0
        del self._states[kept - self._num_dropped + 1 :], self._output[kept:]
        for token in output[kept:]:
            try:
                found = after(self._states[-1], token, self.end_ids)
            except ConstraintBroken:
                found = None
            self._states.append(found)
            self._output.append(token)
        num_old = len(self._states) - _NUM_KEPT
        if num_old > _NUM_KEPT:  # a state has a mask of the whole vocabulary
            del self._states[:num_old]
            self._num_dropped += num_old
        return self._states[-1]

    def masked(self, row: ScoreRow, token_ids: Sequence[int]) -> ScoreRow:
        """Return the row after a text without what may not follow; as it is if all are ruled out.

        A drafter may lack every token that may follow, or only an end may, too early.
        """
        state = self.after(token_ids)
        if state is None:
            return row
        try:
            found = masked(row, state, self.end_ids)
        except ConstraintBroken:
            return row
        is_early = len(token_ids) - self._num_prompt < self._min_tokens
        return row if is_early and _has_only(found, self.end_ids) else found

    def forced(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens that must follow a text, as far as they are known."""
        state = self.after(token_ids)
        return () if state is None else forced_tokens(state, self.end_ids)


def draft_constraint(opened: DraftOpen, constraints: Constraints | None) -> DraftConstraint | None:
    """Return the constraint of a request that is opened, which may still be compiled; None without.

    Args:
        opened: the request.
        constraints: what compiles; None where drafts ignore constraints.
    """
    spec = opened.sampling.constraint
    if spec is None or constraints is None:
        return None
    if spec.kind is ConstraintKind.MONITOR:
        return None  # it reads the prompt, and is asked about what the target verifies alone
    found = DraftConstraint(opened)
    constraints.compile(spec, found.begin)
    return found


def _has_only(row: ScoreRow, token_ids: Sequence[int]) -> bool:
    """Return whether no other token has a finite score."""
    known = torch.tensor([token for token in token_ids if token < len(row.logits)])
    return bool(row.logits.index_fill(0, known, -torch.inf).max() == -torch.inf)
