"""Which outcomes of a verdict to draft for: the most probable ones.

The drafts in flight are kept up to the first that differs from the target's token, and the token
that follows is among the drafter's next guesses there. With the probability that each draft is kept
and that of each guess, every outcome has a probability (docs/generation.md has the formula).
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from parallel.drafting.tree import Odds

_MARGINS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Between the bins of a draft's lead over the best other token, in natural logarithms."""
_FIRST_ACCEPTANCE = (0.2, 0.45, 0.55, 0.7, 0.85, 0.95, 0.99)
"""By bin, before anything was seen: a strong drafter, synthetic distributions."""
_FIRST_CATCH = 0.5


@dataclass(frozen=True, slots=True)
class GuessPlace:
    """A guess of the token that follows some accepted drafts."""

    num_accepted: int
    rank: int
    """Among the guesses there: 0 is the best one beside the draft, or beside the drafter's own next
    token."""


def likeliest_outcomes(
    acceptance: Sequence[float], guesses: Sequence[float], num: int
) -> list[GuessPlace]:
    """Return the most probable outcomes beside the drafter's own, the likeliest first.

    Args:
        acceptance: probability that each draft in flight is kept, those before it given, and at
            last that the drafter's own next token follows all of them.
        guesses: probability of each further guess where that one is wrong, in the order of ranks.
        num: outcomes at most.
    """
    found: list[tuple[float, int, int]] = []
    reached = 1.0
    for num_accepted, kept in enumerate(acceptance):
        ends_here = reached * (1 - kept)
        found += [(-ends_here * guess, num_accepted, rank) for rank, guess in enumerate(guesses)]
        reached *= kept
    return [GuessPlace(place, rank) for prob, place, rank in sorted(found)[:num] if prob < 0]


class OutcomeOdds:
    """How often drafts are kept, by their lead, and which guess of the next token is right.

    Learned online for all requests, and for each one with that as its prior.
    """

    def __init__(self, overall: "OutcomeOdds | None" = None) -> None:
        """Start from what all requests have shown."""
        self._overall = overall
        self._odds = Odds()

    def acceptance(self, margin: float) -> float:
        """Return the probability that a draft with this lead is kept.

        Args:
            margin: score of the draft token less that of the best other one.
        """
        place = bisect(_MARGINS, margin)
        return self._probability(("kept", place), _FIRST_ACCEPTANCE[place])

    def guesses(self, num: int) -> list[float]:
        """Return the probability of each of the first `num` guesses where the draft is wrong."""
        found, left = [], 1.0
        for rank in range(num):
            found.append(left * self._probability(("guess", rank), _FIRST_CATCH))
            left -= found[-1]
        return found

    def observe_draft(self, margin: float, *, kept: bool) -> None:
        """Record whether a draft with this lead was kept."""
        self._observe(("kept", bisect(_MARGINS, margin)), right=kept)

    def observe_guesses(self, guesses: Sequence[int], actual: int) -> None:
        """Record which guess was right, where a draft was wrong."""
        for rank, token in enumerate(guesses):
            self._observe(("guess", rank), right=token == actual)
            if token == actual:
                return

    def _probability(self, kind: tuple[str, int], first: float) -> float:
        prior = first if self._overall is None else self._overall._probability(kind, first)
        return self._odds.probability(kind, prior)

    def _observe(self, kind: tuple[str, int], *, right: bool) -> None:
        self._odds.observe(kind, right=right)
        if self._overall is not None:
            self._overall._observe(kind, right=right)
