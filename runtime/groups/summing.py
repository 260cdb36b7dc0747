"""The order of addition that all groups use, so that every rank gets the same bits."""

from collections.abc import Sequence

import torch
from torch import Tensor

_HALVES = (torch.bfloat16, torch.float16)


def sum_into(out: Tensor, parts: Sequence[Tensor]) -> None:
    """Write the sum of `parts`, added in rank order, to `out`, which may be one of them.

    16-bit floats are summed in float32 and rounded once.
    """
    if len(parts) == 1:
        if out is not parts[0]:
            out.copy_(parts[0])
    elif out.dtype in _HALVES:
        total = parts[0].float()
        for part in parts[1:]:
            total += part
        out.copy_(total)
    elif len(parts) == 2:
        torch.add(parts[0], parts[1], out=out)
    else:
        total = parts[0] + parts[1]
        for part in parts[2:]:
            total += part
        out.copy_(total)
