"""Draft from the successors that the target itself ranked best before (Token Recycling).

Luo et al., arXiv 2408.08696: a table holds, for each token, the best tokens the target scored after
it last time, on accepted and rejected positions alike. This one holds them for each pair of tokens
too, which is more specific and is looked up first. One table serves all requests.
"""

from collections.abc import Iterable, Sequence

from parallel.drafting.tree import Guess

_PAIR_PRIORS = (0.5, 0.1)
_TOKEN_PRIORS = (0.25, 0.07)
NUM_SUCCESSORS = len(_PAIR_PRIORS)
"""Best tokens kept of each: from the third on they come true too rarely to be worth a place."""

Context = tuple[int, ...]


class SuccessorTable:
    """For each token, and each pair, its best successors the last time the target scored one."""

    def __init__(self) -> None:
        self._successors: dict[Context, Sequence[int]] = {}

    def update(self, scored: Iterable[tuple[Context, Sequence[int]]]) -> None:
        """Record one or two tokens with the target's best tokens after them, best first."""
        for context, successors in scored:
            for known in (context, context[-1:]):
                self._successors[known] = successors[:NUM_SUCCESSORS]

    def guesses(self, context: Context) -> list[Guess]:
        """Return the successors of the last two tokens, then others of the last one."""
        pair = self._successors.get(context, ()) if len(context) > 1 else ()
        found = [
            Guess(token, ("pair", rank), prior)
            for rank, (token, prior) in enumerate(zip(pair, _PAIR_PRIORS, strict=False))
        ]
        alone = self._successors.get(context[-1:], ())
        found += [
            Guess(token, ("token", rank, bool(pair)), prior)
            for rank, (token, prior) in enumerate(zip(alone, _TOKEN_PRIORS, strict=False))
            if token not in pair
        ]
        return found


class SuccessorSource:
    """The table as a source of one text's trees."""

    def __init__(self, table: SuccessorTable, token_ids: Sequence[int]) -> None:
        self._table = table
        self._token_ids = token_ids

    def root(self) -> Context:
        """Return the last two tokens."""
        return tuple(self._token_ids[-2:])

    def guesses(self, state: Context) -> list[Guess]:
        """Return what the table holds."""
        return self._table.guesses(state)

    def advance(self, state: Context, token: int) -> Context:
        """Return the last two tokens once `token` has followed."""
        return (state[-1], token)
