"""Logits at one position: what sampling and verification read."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Target (or drafter) logits at one position, on all or on the best tokens.

    A row of one token is that token: the best one, or the one that a device drew.
    """

    logits: Tensor
    """[num_candidates], float32."""
    ids: Tensor | None
    """[num_candidates], int64, the tokens of `logits`; None: the whole vocabulary in order."""

    def best(self, num: int) -> list[int]:
        """Return the best `num` tokens, or as many as it has, best first."""
        if num == 1 and (self.ids is None or len(self.ids) == 1):
            found = self.logits.argmax() if self.ids is None else self.ids[0]
            return [int(found)]
        columns = self.logits.topk(min(num, len(self.logits))).indices
        ids: list[int] = (columns if self.ids is None else self.ids[columns]).tolist()
        return ids
