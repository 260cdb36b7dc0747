"""Which draft tokens of a virtual device are right: chance, keyed so that it can be predicted.

A draft token equals the target's with probability alpha, independently for each position: the
i.i.d. model of the cost formulas of PEARL and of speculative decoding. The simulator draws the same
numbers as the virtual devices, so both accept the same tokens.
"""

from dataclasses import dataclass

from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.types import RngKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """The tokens of virtual sequences, and the drafts of a virtual drafter."""

    alpha: float
    """Probability that a draft token is right."""
    drop: float = 0.0
    """Share of it that is lost with each further layer at a time."""
    seed: int = 0

    def token(self, stream: int, position: int, vocab_size: int) -> int:
        """Return a sequence's token; its first prompt token names the stream."""
        key = RngKey(seed=self.seed, request=stream)
        return int(uniform(key, position, Purpose.SAMPLE) * vocab_size)

    def is_right(self, stream: int, position: int, width: int = 1) -> bool:
        """Return whether the draft token at a position, made with so many layers at a time, is."""
        key = RngKey(seed=self.seed, request=stream)
        alpha = self.alpha * (1 - self.drop) ** (width - 1)
        return uniform(key, position, Purpose.ACCEPT) < alpha
