"""Counts of drafts that were made while the target verified: hits, misses by cause, guesses."""

from dataclasses import dataclass

from parallel.decoding.round_state import Commit, DraftAhead


@dataclass(frozen=True, slots=True)
class AheadCounts:
    """Sums over rounds; `RequestStats` explains the fields, which have the same names."""

    hits: int = 0
    recovered_hits: int = 0
    misses_unforeseen: int = 0
    misses_late: int = 0
    misses_unasked: int = 0
    guesses: int = 0
    drafted_ahead: int = 0

    def counting(self, commit: Commit) -> "AheadCounts":
        """Return the sums with one more round of a sequence."""
        if commit.ahead is None:
            return self
        is_hit = commit.ahead is DraftAhead.HIT
        return AheadCounts(
            hits=self.hits + is_hit,
            recovered_hits=self.recovered_hits + (is_hit and commit.rejected),
            misses_unforeseen=self.misses_unforeseen + (commit.ahead is DraftAhead.UNFORESEEN),
            misses_late=self.misses_late + (commit.ahead is DraftAhead.LATE),
            misses_unasked=self.misses_unasked + (commit.ahead is DraftAhead.UNASKED),
            guesses=self.guesses + commit.num_guesses,
            drafted_ahead=self.drafted_ahead + commit.num_ahead,
        )
