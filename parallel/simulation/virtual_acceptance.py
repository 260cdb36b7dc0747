"""Which draft tokens of a virtual device are right: chance, keyed so that it can be predicted.

A draft token equals the target's with probability alpha, independently for each position: the
i.i.d. model of the cost formulas of PEARL and of speculative decoding. The simulator draws the same
numbers as the virtual devices, so both accept the same tokens.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log

from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.types import RngKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """The tokens of virtual sequences, and the drafts of a virtual drafter."""

    alpha: float
    """Probability that a draft token is right."""
    drop: float = 0.0
    """Share of it that is lost with each further layer at a time."""
    beta: float = 0.0
    """Probability that the drafter's next guess is right where those before were wrong."""
    seed: int = 0

    def token(self, stream: int, position: int, vocab_size: int) -> int:
        """Return a sequence's token; its first prompt token names the stream."""
        key = RngKey(seed=self.seed, request=stream)
        return int(uniform(key, position, Purpose.SAMPLE) * vocab_size)

    def is_right(self, stream: int, position: int, width: int = 1) -> bool:
        """Return whether the draft token at a position, made with so many layers at a time, is."""
        alpha = self.alpha * (1 - self.drop) ** (width - 1)
        return _test_number(self.seed, stream, position) < alpha

    def num_wrong_guesses(self, stream: int, position: int, most: int) -> int:
        """Return how many further guesses fail before the right one, where the draft is wrong.

        Args:
            stream: as in `token`.
            position: as in `is_right`.
            most: the number to return where more fail.
        """
        if self.beta in (0, 1):
            return 0 if self.beta else most
        key = RngKey(seed=self.seed, request=stream)
        return min(most, int(log(uniform(key, position, Purpose.RECOVER)) / log(1 - self.beta)))


@lru_cache(maxsize=4096)  # drafts of several outcomes ask for the same positions
def _test_number(seed: int, stream: int, position: int) -> float:
    return uniform(RngKey(seed=seed, request=stream), position, Purpose.ACCEPT)
