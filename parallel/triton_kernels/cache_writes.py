"""Kernels that write the paged cache: new keys and values, and the accepted path of a tree."""

import triton
import triton.language as tl


@triton.jit
def _normalized(even_H, odd_H, weight_ptr, pairs_H, mask_H, eps, DIM: tl.constexpr,
                ADDS_ONE: tl.constexpr):  # fmt: skip
    """Return a head's pairs over their root mean square, times the weight, in float32."""
    even_weight_H = tl.load(weight_ptr + 2 * pairs_H, mask=mask_H, other=0.0).to(tl.float32)
    odd_weight_H = tl.load(weight_ptr + 2 * pairs_H + 1, mask=mask_H, other=0.0).to(tl.float32)
    if ADDS_ONE:
        even_weight_H += 1.0
        odd_weight_H += 1.0
    inverse = 1.0 / tl.sqrt(tl.sum(even_H * even_H + odd_H * odd_H, 0) / DIM + eps)
    return even_H * inverse * even_weight_H, odd_H * inverse * odd_weight_H


@triton.jit
def rotate_and_store(
    heads_ptr, turns_ptr, positions_ptr, addresses_ptr, key_ptr, value_ptr, query_norm_ptr,
    key_norm_ptr, heads_row, heads_head, key_head, key_stride, value_head, value_stride, num_query,
    num_kv, eps,
    DIM: tl.constexpr, HALF: tl.constexpr, NORMED: tl.constexpr, ADDS_ONE: tl.constexpr,
):  # fmt: skip
    """Rotate one query of a row in place, or store one key or value. Ids are (row, head)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    address = tl.load(addresses_ptr + row).to(tl.int64)
    pairs_H = tl.arange(0, HALF)
    mask_H = pairs_H < DIM // 2
    source = heads_ptr + row * heads_row + head * heads_head + 2 * pairs_H
    even_H = tl.load(source, mask=mask_H, other=0.0)
    odd_H = tl.load(source + 1, mask=mask_H, other=0.0)
    kv_head = (head - num_query) % num_kv
    if head < num_query + num_kv:
        kind = heads_ptr.dtype.element_ty
        wide_even_H = even_H.to(tl.float32)
        wide_odd_H = odd_H.to(tl.float32)
        if NORMED:
            weight_ptr = key_norm_ptr
            if head < num_query:
                weight_ptr = query_norm_ptr
            wide_even_H, wide_odd_H = _normalized(
                wide_even_H, wide_odd_H, weight_ptr, pairs_H, mask_H, eps, DIM, ADDS_ONE
            )
            # Rounded as a norm of its own would leave them.
            wide_even_H = wide_even_H.to(kind).to(tl.float32)
            wide_odd_H = wide_odd_H.to(kind).to(tl.float32)
        turn = turns_ptr + tl.load(positions_ptr + row).to(tl.int64) * DIM + 2 * pairs_H
        cos_H = tl.load(turn, mask=mask_H, other=0.0)
        sin_H = tl.load(turn + 1, mask=mask_H, other=0.0)
        even_H = (wide_even_H * cos_H - wide_odd_H * sin_H).to(kind)
        odd_H = (wide_even_H * sin_H + wide_odd_H * cos_H).to(kind)
    if head < num_query:
        tl.store(source, even_H, mask=mask_H)
        tl.store(source + 1, odd_H, mask=mask_H)
    elif address >= 0:
        if head < num_query + num_kv:
            target = key_ptr + kv_head * key_head + address * key_stride + 2 * pairs_H
        else:
            target = value_ptr + kv_head * value_head + address * value_stride + 2 * pairs_H
        tl.store(target, even_H, mask=mask_H)
        tl.store(target + 1, odd_H, mask=mask_H)


@triton.jit
def move_tokens(
    cache_ptr, offsets_ptr, moves_ptr, plane_stride, address_stride,
    DIM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Move tokens of one sequence in one plane of the cache. Ids are (plane, sequence).

    A plane is the keys or the values of one head in one layer. One program makes the moves of a
    sequence in their order, because a place may be left and taken.
    """
    plane = tl.program_id(0).to(tl.int64)
    sequence = tl.program_id(1)
    dims_D = tl.arange(0, WIDE)
    mask_D = dims_D < DIM
    base = cache_ptr + plane * plane_stride + dims_D
    first = tl.load(offsets_ptr + sequence)
    for move in range(first, tl.load(offsets_ptr + sequence + 1)):
        source = tl.load(moves_ptr + move * 2).to(tl.int64)
        target = tl.load(moves_ptr + move * 2 + 1).to(tl.int64)
        values_D = tl.load(base + source * address_stride, mask=mask_D)
        tl.debug_barrier()
        tl.store(base + target * address_stride, values_D, mask=mask_D)
        tl.debug_barrier()
