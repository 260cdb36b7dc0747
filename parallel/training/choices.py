"""A loss among the tokens of the choices alone."""

from collections.abc import Sequence

from torch import Tensor


def among_choices(logits_NV: Tensor, choices: Sequence[Sequence[int]]) -> Tensor:
    """Return logits that allow only the choices of each row; all tokens where it has none."""
    if not any(choices):
        return logits_NV
    found = logits_NV.clone()
    for row, some in enumerate(choices):
        if some:
            kept = logits_NV[row, list(some)]
            found[row] = float("-inf")
            found[row, list(some)] = kept
    return found
