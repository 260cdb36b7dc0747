"""Counts of drafts that were made while the target verified: hits, misses by cause, guesses."""

from dataclasses import dataclass, replace
from typing import Self

from parallel.decoding.round_state import Commit, DraftAhead


@dataclass(frozen=True, slots=True, kw_only=True)
class AheadCounts:
    """Sums over the rounds of one sequence, or of all."""

    hits: int = 0
    """Rounds whose verdict found a draft that was made for it while the target verified."""
    recovered_hits: int = 0
    """Those among them whose verdict rejected a draft token."""
    misses_unforeseen: int = 0
    """Rounds whose verdict found drafts for other outcomes only."""
    misses_late: int = 0
    """Rounds whose verdict found no draft because none had arrived yet."""
    misses_unasked: int = 0
    """Rounds of such modes that asked for no draft: near the output's end, or without a drafter."""
    guesses: int = 0
    """Outcomes for which drafts were started."""
    drafted_ahead: int = 0
    """Tokens drafted for them that arrived before the verdict."""

    def counting(self, commit: Commit) -> Self:
        """Return the sums with one more round of a sequence."""
        if commit.ahead is None:
            return self
        is_hit = commit.ahead is DraftAhead.HIT
        return replace(
            self,
            hits=self.hits + is_hit,
            recovered_hits=self.recovered_hits + (is_hit and commit.rejected),
            misses_unforeseen=self.misses_unforeseen + (commit.ahead is DraftAhead.UNFORESEEN),
            misses_late=self.misses_late + (commit.ahead is DraftAhead.LATE),
            misses_unasked=self.misses_unasked + (commit.ahead is DraftAhead.UNASKED),
            guesses=self.guesses + commit.num_guesses,
            drafted_ahead=self.drafted_ahead + commit.num_ahead,
        )
