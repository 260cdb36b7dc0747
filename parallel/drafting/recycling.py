"""Draft from the successors that the target itself ranked best before (Token Recycling).

Luo et al., arXiv 2408.08696: a table holds, for each token, the best tokens the target scored after
it last time, on accepted and rejected positions alike. One table serves all requests.
"""

from collections.abc import Iterable, Sequence


class SuccessorTable:
    """For each token, its best successors the last time the target scored one."""

    def __init__(self) -> None:
        self._successors: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """Return the number of tokens with successors."""
        return len(self._successors)

    def update(self, scored: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Take in tokens with their best successors, best first; the last of a token counts."""
        for token, successors in scored:
            self._successors[token] = tuple(successors)

    def successors(self, token: int) -> tuple[int, ...]:
        """Return a token's successors, best first; none if it was never scored."""
        return self._successors.get(token, ())

    def propose(self, token: int, num_draft: int) -> tuple[int, ...]:
        """Return the chain of best successors after `token`, up to `num_draft` tokens."""
        drafted: list[int] = []
        while len(drafted) < num_draft:
            following = self._successors.get(token)
            if not following:
                break
            token = following[0]
            drafted.append(token)
        return tuple(drafted)
