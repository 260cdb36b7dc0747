"""Outputs that end within their budget: a token is taken only if a completion still fits after it.

A verdict's tokens are checked in their order. The first one after which no completion fits is
replaced by the next in the order that the verifier draws by, and where none of the best does, by
the first token of the completion that is known. Drawing again without the tokens that failed is a
draw from the others, so that both verifiers keep the distribution on tokens that leave enough room.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from parallel.decoding.constraint import ConstraintBroken, ConstraintState
from parallel.decoding.sampling import ranked
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree, RngKey, SamplingParams, Verdict

ANY_LENGTH = 2**31 - 1
MAX_TRIES = 32
"""Tokens that are tried in place of one that leaves too little room."""


@runtime_checkable
class Closable(Protocol):
    """What a constraint's state can do beside masks if completions can be found."""

    def completion(self, most: int) -> tuple[int, ...] | None:
        """Return tokens that complete the output, at most so many; None if none are found."""
        ...


def completion(state: ConstraintState, most: int) -> tuple[int, ...] | None:
    """Return at most `most` tokens that complete the output; None if none are known."""
    return state.completion(most) if isinstance(state, Closable) else None


def check_completion(state: ConstraintState, num_left: int) -> None:
    """Check that a completion of at most `num_left` tokens is known.

    Raises:
        ConstraintBroken: none is; says whether a longer one is.
    """
    if completion(state, num_left) is not None:
        return
    shortest = completion(state, ANY_LENGTH)
    if shortest is None:
        raise ConstraintBroken(
            "`close` cannot be kept, since no text that completes the output was found: leave it "
            "out, or simplify the constraint"
        )
    raise ConstraintBroken(
        f"`close` completes the output within `max_tokens`, which leaves {num_left} tokens: the "
        f"shortest completion that was found has {len(shortest)}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How the tokens of a verdict were drawn; fields as the verifiers' arguments."""

    rows: Sequence[ScoreRow]
    params: SamplingParams
    key: RngKey
    position: int
    history: Sequence[int] = ()


def closed(
    verdict: Verdict,
    draft: DraftTree,
    drawing: Drawing,
    state: ConstraintState,
    *,
    num_left: int,
) -> Verdict:
    """Return the verdict, cut and with another token where its own would leave too little room.

    Args:
        verdict: of a verifier, on masked rows.
        draft: what was verified.
        drawing: how.
        state: the constraint after the committed tokens, which has a completion of at most
            `num_left` tokens.
        num_left: tokens that may still be generated.
    """
    path = [-1, *(verdict.accepted_nodes or range(verdict.num_accepted))]
    tokens = [draft.token_ids[node] for node in path[1:]]
    if verdict.next_token is not None:
        tokens.append(verdict.next_token)
    for place, token in enumerate(tokens):
        if token in drawing.params.end_ids or place == num_left:
            return verdict
        following = state.advance(token)
        if completion(following, num_left - place - 1) is None:
            taken = _replacement(drawing, path[place], tokens[:place], state, num_left - place)
            nodes = tuple(path[1 : place + 1])
            return replace(verdict, num_accepted=place, next_token=taken, accepted_nodes=nodes)
        state = following
    return verdict


def _replacement(
    drawing: Drawing,
    node: int,
    path: Sequence[int],
    state: ConstraintState,
    num_left: int,
) -> int:
    """Return the first token, in the order that draws go by, after which a completion fits."""
    params = drawing.params
    history = [*drawing.history, *path] if params.reads_history else ()
    row = drawing.rows[node + 1]
    best = ranked(row, params, drawing.key, drawing.position + len(path), history, num=MAX_TRIES)
    for one in best:
        if one.score == -math.inf:  # no more tokens are legal
            break
        if one.token in params.end_ids:
            return one.token
        if completion(state.advance(one.token), num_left - 1) is not None:
            return one.token
    known = completion(state, num_left)
    if not known:
        raise ConstraintBroken(f"no completion of at most {num_left} tokens is known any longer")
    return known[0]
