"""Constraints on the output: which tokens may follow, for each node of a draft tree.

A state is an immutable value: the nodes of a tree branch off one another, and each is masked by the
state after its own path (own-prefix rule). Masks come before everything else that shapes logits, so
that every verifier and every draft is tested against the constrained distribution. Tokens that end
the output are legal exactly where the output satisfies the constraint.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray

from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree
from parallel.errors import PacelineError

Mask = NDArray[np.bool_]


class ConstraintBroken(PacelineError, ValueError):
    """No token, or not this token, may follow; the message says which."""


class ConstraintState(Protocol):
    """What a constraint knows after some output; never changes."""

    @property
    def is_complete(self) -> bool:
        """Whether the output satisfies the constraint as it is."""
        ...

    def mask(self) -> Mask:
        """Return for each token whether it may follow, [vocab_size]; False for end tokens.

        Not to be written to. Raises ConstraintBroken if a limit of the computation is reached.
        """
        ...

    def advance(self, token: int) -> "ConstraintState":
        """Return the state after one more token, which is no end token.

        Raises:
            ConstraintBroken: the token may not follow.
        """
        ...

    def forced(self) -> tuple[int, ...]:
        """Return the tokens that spell what must follow, most likely as the model spells it."""
        ...


def legal_tokens(state: ConstraintState, end_ids: Sequence[int], size: int) -> Mask:
    """Return for each of the first `size` tokens whether it may follow.

    Args:
        state: the constraint after the tokens before.
        end_ids: the tokens that end the output.
        size: of the mask; tokens that the constraint does not know may not follow.

    Raises:
        ConstraintBroken: none of them may follow.
    """
    known = state.mask()[:size]
    legal = np.zeros(size, dtype=np.bool_)
    legal[: len(known)] = known
    legal[[token for token in end_ids if token < size]] = state.is_complete
    if not legal.any():
        raise ConstraintBroken("the constraint leaves no token that may follow")
    return legal


def forced_tokens(state: ConstraintState, end_ids: Sequence[int]) -> tuple[int, ...]:
    """Return what must follow, as far as it is known; an end token where nothing else may follow.

    Args:
        state: the constraint after the tokens before.
        end_ids: the tokens that end the output.
    """
    try:
        found = state.forced()
        if found or not state.is_complete or state.mask().any():
            return found
    except ConstraintBroken:  # the target's mask reports it
        return ()
    return tuple(end_ids[:1])


def masked(row: ScoreRow, state: ConstraintState | None, end_ids: Sequence[int]) -> ScoreRow:
    """Return a row in which tokens that may not follow score -inf.

    Args:
        row: of the whole vocabulary.
        state: the constraint after the tokens before the row; None: nothing is ruled out.
        end_ids: the tokens that end the output.

    Raises:
        ConstraintBroken: no token may follow, or none of those that may has a finite score.
    """
    if state is None:
        return row
    assert row.ids is None, "a constraint needs the logits of the whole vocabulary"
    legal = torch.from_numpy(legal_tokens(state, end_ids, len(row.logits)))
    logits = row.logits.detach().to("cpu", torch.float32).masked_fill(~legal, -torch.inf)
    if logits.max() == -torch.inf:
        raise ConstraintBroken("no token that the constraint allows has a finite score")
    return ScoreRow(logits, None)


class MaskedRows(Sequence[ScoreRow]):
    """The rows of a draft, each masked by the constraint after the path of its own node.

    A row is masked when it is read: a verifier reads those of the nodes that it accepts, which are
    legal.
    """

    def __init__(
        self,
        rows: Sequence[ScoreRow],
        draft: DraftTree,
        state: ConstraintState,
        end_ids: Sequence[int],
    ) -> None:
        """Mask the rows of `draft`.

        Args:
            rows: rows[0] follows the committed tokens, rows[i + 1] follows node i.
            draft: a tree, or a chain.
            state: the constraint after the committed tokens.
            end_ids: the tokens that end the output; rows after them are left as they are.
        """
        self._rows = rows
        self._draft = draft
        self._end_ids = end_ids
        self._states: dict[int, ConstraintState | None] = {-1: state}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ScoreRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ScoreRow]: ...
    def __getitem__(self, index: int | slice) -> ScoreRow | Sequence[ScoreRow]:
        """Return a masked row; raises ConstraintBroken for a row after an illegal token."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return masked(self._rows[index], self._state(index - 1), self._end_ids)

    def __iter__(self) -> Iterator[ScoreRow]:
        """Yield the masked rows."""
        return (self[place] for place in range(len(self)))

    def _state(self, node: int) -> ConstraintState | None:
        """Return the state after a node; None after an end token."""
        if node not in self._states:
            before, token = self._state(self._draft.parents[node]), self._draft.token_ids[node]
            self._states[node] = after(before, token, self._end_ids)
        return self._states[node]


def after(
    state: ConstraintState | None, token: int, end_ids: Sequence[int]
) -> ConstraintState | None:
    """Return the state after one more token; None once the output has ended.

    Raises:
        ConstraintBroken: the token may not follow.
    """
    if state is None:
        return None
    if token not in end_ids:
        return state.advance(token)
    if not state.is_complete:
        raise ConstraintBroken(f"token {token} ends the output before it is complete")
    return None
