"""What rounds yielded, the recent ones most."""

from dataclasses import dataclass


@dataclass(slots=True)
class RecentRounds:
    """Sums over rounds in which each round counts less with every later one."""

    memory: float
    """Weight that a round keeps with each later one."""
    rounds: float = 0.0
    tokens: float = 0.0
    """Committed."""
    expected: float = 0.0
    """What the tokens are compared with: seconds, or predicted tokens."""

    def observe(self, tokens: float, expected: float) -> None:
        """Add a round."""
        self.rounds = self.rounds * self.memory + 1
        self.tokens = self.tokens * self.memory + tokens
        self.expected = self.expected * self.memory + expected

    def has_seen(self, num_rounds: int) -> bool:
        """Return whether the sums hold about so many rounds or more."""
        return self.rounds >= num_rounds * self.memory**num_rounds
