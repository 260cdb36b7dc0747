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
    c0, c1, c2, c3 = (
        counter.clone(memory_format=torch.contiguous_format)
        for counter in torch.broadcast_tensors(*counters)  # type: ignore[no-untyped-call]  # torch's
    )
    first, second = torch.empty_like(c0), torch.empty_like(c2)
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    for _ in range(_ROUNDS):
        # Int64 products wrap, which keeps all 64 bits of the unsigned ones. Of a product, the high
        # half continues through the key, the low half, not yet cut to 32 bits, to the next round.
        torch.mul(c0, _MULTIPLIERS[0], out=first)
        torch.mul(c2, _MULTIPLIERS[1], out=second)
        torch.bitwise_right_shift(second, 32, out=c0)
        c0.bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK)
        torch.bitwise_right_shift(first, 32, out=c2)
        c2.bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK)
        c1, second, c3, first = second, c1, first, c3
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack([c0, c1 & _MASK, c2, c3 & _MASK], dim=-1)
