"""Outcomes of a verdict, and the drafts that are prepared for them before it is known.

A verdict on the drafts in flight has two parts: how many of them are kept, and the token that
follows. A drafter that guesses such outcomes and drafts after each of them has the next draft ready
when one comes true (an outcome cache; "speculative speculative decoding", arXiv 2603.03251). PEARL
(arXiv 2408.11850) prepares one: all are kept, and its own next token follows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parallel.decoding.types import DraftTree

_NO_DRAFT = DraftTree()


@dataclass(frozen=True, slots=True)
class VerdictOutcome:
    """What a verdict on the drafts in flight may be."""

    num_accepted: int
    """How many of them are kept."""
    next_token: int
    """The recovered or bonus token that follows the kept ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeDraft:
    """A draft after an outcome, or a later part of it."""

    outcome: VerdictOutcome
    first: int = 0
    """Tokens of the draft in earlier parts."""
    token_ids: tuple[int, ...] = ()
    """POINT tokens: the verifier needs no probabilities for them."""


Prepared = Mapping[VerdictOutcome, DraftTree]
"""A chain for each outcome that is prepared; never changed in place."""


def with_parts(prepared: Prepared, parts: Iterable[OutcomeDraft], *, max_length: int) -> Prepared:
    """Return the prepared drafts with more parts appended.

    A part that repeats tokens, or follows one that was lost, is left out: parts may arrive twice or
    not at all.

    Args:
        prepared: what has arrived so far; drafts that grow are of POINT tokens.
        parts: what arrives now.
        max_length: tokens of a draft at most; what is longer is cut.
    """
    grown = dict(prepared)
    for part in parts:
        known = grown.get(part.outcome, _NO_DRAFT).token_ids
        if part.first == len(known):
            grown[part.outcome] = DraftTree.chain((known + part.token_ids)[:max_length])
    return grown
