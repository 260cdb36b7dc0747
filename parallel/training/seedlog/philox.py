"""Philox4x32-10 (Salmon et al., SC 2011, section 3.3) in integers, the same on every device."""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10


def philox(counters: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> Tensor:
    """Return four random words for each counter.

    Args:
        counters: the counter's words, low first; int64 in [0, 2^32), of shapes that broadcast.
        key: 64 bits.

    Returns:
        int64 in [0, 2^32), [..., 4].
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counters)  # type: ignore[no-untyped-call]  # torch's
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    for _ in range(_ROUNDS):
        # int64 products wrap, which keeps all 64 bits of the unsigned ones
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, low0 = (first >> 32) & _MASK, first & _MASK
        high1, low1 = (second >> 32) & _MASK, second & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack([c0, c1, c2, c3], dim=-1)
