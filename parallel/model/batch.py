"""One ragged forward: rows of different sequences and lengths in a single call."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRows:
    """Consecutive new tokens of one sequence.

    The cache of the sequence is truncated to `start` before the tokens are appended, so a rollback
    needs no call of its own.
    """

    slot: int
    """The sequence's place in the KV cache."""
    start: int
    """Position of the first token; cached tokens from here on are dropped."""
    token_ids: tuple[int, ...]
    num_logits: int
    """Logits are computed for the last `num_logits` of the tokens."""

    def __post_init__(self) -> None:
        """Refuse empty rows and logits of tokens that are not there."""
        if not self.token_ids or not 0 <= self.num_logits <= len(self.token_ids) or self.start < 0:
            raise ValueError(f"rows of slot {self.slot} are empty or ask for too many logits")
