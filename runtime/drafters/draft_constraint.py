"""A request's constraint where it is drafted for: drafts are drawn from what may follow.

The target masks in any case. A drafter that lacks the constraint drafts tokens that are rejected;
one that has it masks before it draws, so that its probabilities are those it drew from.
"""

from collections.abc import Sequence

from parallel.decoding.constraint import ConstraintBroken, ConstraintState, after, masked
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import ConstraintKind
from parallel.messages import DraftOpen
from runtime.constraints.compiler import Constraints


class DraftConstraint:
    """The states of one request's constraint along its tokens, which drafts extend and cut."""

    def __init__(self, start: ConstraintState, opened: DraftOpen) -> None:
        self.end_ids = opened.sampling.end_ids
        self._num_prompt = opened.num_prompt
        self._states: list[ConstraintState | None] = [start]
        self._output: list[int] = []

    def after(self, token_ids: Sequence[int]) -> ConstraintState | None:
        """Return the state after a text; None if it has ended, or is illegal: a draft can be."""
        output = list(token_ids[self._num_prompt :])
        kept = min(len(output), len(self._output))
        if output[:kept] != self._output[:kept]:
            pairs = zip(output, self._output, strict=False)
            kept = next(place for place, (new, old) in enumerate(pairs) if new != old)
        del self._states[kept + 1 :], self._output[kept:]
        for token in output[kept:]:
            try:
                found = after(self._states[-1], token, self.end_ids)
            except ConstraintBroken:
                found = None
            self._states.append(found)
            self._output.append(token)
        return self._states[-1]

    def masked(self, row: ScoreRow, token_ids: Sequence[int]) -> ScoreRow:
        """Return the row after a text without what may not follow; as it is if all are ruled out.

        A drafter may lack every token that may follow.
        """
        try:
            return masked(row, self.after(token_ids), self.end_ids)
        except ConstraintBroken:
            return row


def draft_constraint(opened: DraftOpen, constraints: Constraints | None) -> DraftConstraint | None:
    """Return the constraint of a request that is opened; None without one, or if it is unknown."""
    spec = opened.sampling.constraint
    if spec is not None and spec.kind is ConstraintKind.MONITOR:
        return None  # it reads the prompt, and is asked about what the target verifies alone
    start = None if spec is None or constraints is None else constraints.find(spec)
    return None if start is None else DraftConstraint(start, opened)
