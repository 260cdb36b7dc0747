"""Attention of a ragged batch over a paged cache: all kinds of rows in one launch.

Softmax is computed online over blocks of keys (FlashAttention-2, Dao, arXiv 2307.08691) and over
splits of them (Flash-Decoding). Blocks and splits begin at multiples of fixed sizes of the
sequence's own positions and are added in their order, so the batch decides nothing about a row's
sum. A block in which a row sees nothing changes no bit of it: its weights are exactly 0, and what
was summed before is multiplied by exactly 1.
"""

import triton
import triton.language as tl

SPLIT = 256
"""Keys in a split: a multiple of every block size."""


@triton.jit
def _dot(a, b, WIDEN: tl.constexpr):
    if WIDEN:  # the interpreter multiplies the bit patterns of bfloat16
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _seen(keys_N, firsts_M, stops_M, bits_M, valid_M, tree, block_stop, WORDS: tl.constexpr):
    """Return which keys each row of a tile sees, [M, N]."""
    seen_MN = (keys_N[None, :] >= firsts_M[:, None]) & (keys_N[None, :] < stops_M[:, None])
    if block_stop > tree:
        node_N = keys_N - tree
        in_tree_N = (node_N >= 0) & (node_N < 32 * WORDS)
        words_MN = tl.load(
            bits_M[:, None] + (node_N >> 5)[None, :],
            mask=valid_M[:, None] & in_tree_N[None, :],
            other=0,
        )
        seen_MN = seen_MN | (((words_MN >> (node_N & 31)[None, :]) & 1) != 0)
    return seen_MN


@triton.jit
def _attend_split(
    query_MD, key_ptr, value_ptr, key_stride, value_stride, table, firsts_M, stops_M, bits_M,
    valid_M, tree, begin, stop, scale, cap,
    PAGE: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr,
    BLOCK: tl.constexpr, WORDS: tl.constexpr, CAPPED: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Return the largest score, the sum of weights and the weighted values of one split."""
    dims_D = tl.arange(0, WIDE)
    top_M = tl.full((TILE,), float("-inf"), tl.float32)
    total_M = tl.zeros((TILE,), tl.float32)
    sum_MD = tl.zeros((TILE, WIDE), tl.float32)
    for block in range(begin, stop, BLOCK):
        keys_N = block + tl.arange(0, BLOCK)
        seen_MN = _seen(keys_N, firsts_M, stops_M, bits_M, valid_M, tree, block + BLOCK, WORDS)
        read_N = tl.max(seen_MN.to(tl.int32), 0) != 0
        page_N = tl.load(table + keys_N // PAGE, mask=read_N, other=0)
        address_N = (page_N * PAGE + keys_N % PAGE).to(tl.int64)
        mask_ND = read_N[:, None] & (dims_D < DIM)[None, :]
        key_ND = tl.load(
            key_ptr + address_N[:, None] * key_stride + dims_D[None, :], mask=mask_ND, other=0.0
        )
        score_MN = _dot(query_MD, tl.trans(key_ND), WIDEN) * scale
        if CAPPED:  # tanh(|x|) = (1 - exp(-2 |x|)) / (1 + exp(-2 |x|))
            falling_MN = tl.exp(tl.abs(score_MN) * (-2.0 / cap))
            size_MN = cap * ((1.0 - falling_MN) / (1.0 + falling_MN))
            score_MN = tl.where(score_MN < 0.0, -size_MN, size_MN)
        score_MN = tl.where(seen_MN, score_MN, float("-inf"))
        new_top_M = tl.maximum(top_M, tl.max(score_MN, 1))
        shift_M = tl.where(new_top_M == float("-inf"), 0.0, new_top_M)
        weight_MN = tl.exp(score_MN - shift_M[:, None])
        kept_M = tl.exp(top_M - shift_M)
        value_ND = tl.load(
            value_ptr + address_N[:, None] * value_stride + dims_D[None, :], mask=mask_ND, other=0.0
        )
        total_M = total_M * kept_M + tl.sum(weight_MN, 1)
        sum_MD = sum_MD * kept_M[:, None] + _dot(weight_MN.to(value_ND.dtype), value_ND, WIDEN)
        top_M = new_top_M
    return top_M, total_M, sum_MD


@triton.jit
def _weights_of_two(top, other_top):
    """Return the larger of two scores, and the factors of what was summed below each."""
    new_top = tl.maximum(top, other_top)
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    return new_top, tl.exp(top - shift), tl.exp(other_top - shift)


@triton.jit
def _divided(sum_D, total):
    """Return a weighted sum over its weights; zeros for a row that sees nothing."""
    return tl.where(total == 0.0, 0.0, sum_D / tl.where(total == 0.0, 1.0, total))


@triton.jit
def _load_tile(
    tiles_ptr, ranges_ptr, GROUP: tl.constexpr, WIDE_GROUP: tl.constexpr, TILE: tl.constexpr
):
    """Return a tile's sequence, its rows, heads and which of them exist, and what they see.

    Line i of a tile is row i // WIDE_GROUP with query head i % WIDE_GROUP of the KV head.
    """
    tile_ptr = tiles_ptr + tl.program_id(0) * 3
    lines_M = tl.arange(0, TILE)
    lanes_M = lines_M % WIDE_GROUP
    valid_M = (lines_M // WIDE_GROUP < tl.load(tile_ptr + 2)) & (lanes_M < GROUP)
    rows_M = (tl.load(tile_ptr + 1) + lines_M // WIDE_GROUP).to(tl.int64)
    heads_M = tl.program_id(1) * GROUP + lanes_M
    # A line that does not exist sees nothing: its first key is beyond all.
    firsts_M = tl.load(ranges_ptr + rows_M * 3, mask=valid_M, other=2147483647)
    stops_M = tl.load(ranges_ptr + rows_M * 3 + 1, mask=valid_M, other=0)
    ends_M = tl.load(ranges_ptr + rows_M * 3 + 2, mask=valid_M, other=0)
    return (
        tl.load(tile_ptr).to(tl.int64), rows_M, heads_M, valid_M, firsts_M, stops_M,
        tl.min(firsts_M, 0), tl.max(ends_M, 0),
    )  # fmt: skip


@triton.jit(do_not_specialize=["table_stride"])
def attend_tiles(
    query_ptr, key_ptr, value_ptr, out_ptr, tiles_ptr, ranges_ptr, bits_ptr, trees_ptr, tables_ptr,
    query_row, query_head, key_head, key_stride, value_head, value_stride, out_row, out_head,
    table_stride, scale, cap,
    GROUP: tl.constexpr, WIDE_GROUP: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr,
    WIDE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr,
    WORDS: tl.constexpr, CAPPED: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Attend with one tile of rows, for one KV head, over all splits in their order.

    Program ids are (tile, KV head).
    """
    sequence, rows_M, heads_M, valid_M, firsts_M, stops_M, begin, end = _load_tile(
        tiles_ptr, ranges_ptr, GROUP, WIDE_GROUP, TILE
    )
    dims_D = tl.arange(0, WIDE)
    mask_MD = valid_M[:, None] & (dims_D < DIM)[None, :]
    query_MD = tl.load(
        query_ptr + rows_M[:, None] * query_row + heads_M[:, None] * query_head + dims_D[None, :],
        mask=mask_MD,
        other=0.0,
    )
    kv_head = tl.program_id(1).to(tl.int64)
    top_M = tl.full((TILE,), float("-inf"), tl.float32)
    total_M = tl.zeros((TILE,), tl.float32)
    sum_MD = tl.zeros((TILE, WIDE), tl.float32)
    for start in range((begin // SIZE) * SIZE, end, SIZE):
        split_top_M, split_total_M, split_sum_MD = _attend_split(
            query_MD, key_ptr + kv_head * key_head, value_ptr + kv_head * value_head, key_stride,
            value_stride, tables_ptr + sequence * table_stride, firsts_M, stops_M,
            bits_ptr + rows_M * WORDS, valid_M, tl.load(trees_ptr + sequence), start,
            tl.minimum(start + SIZE, end), scale, cap, PAGE, DIM, WIDE, TILE, BLOCK, WORDS,
            CAPPED, WIDEN,
        )  # fmt: skip
        top_M, old_M, new_M = _weights_of_two(top_M, split_top_M)
        total_M = total_M * old_M + split_total_M * new_M
        sum_MD = sum_MD * old_M[:, None] + split_sum_MD * new_M[:, None]
    out_MD = _divided(sum_MD, total_M[:, None]).to(out_ptr.dtype.element_ty)
    where_MD = rows_M[:, None] * out_row + heads_M[:, None] * out_head + dims_D[None, :]
    tl.store(out_ptr + where_MD, out_MD, mask=mask_MD)


@triton.jit(do_not_specialize=["table_stride", "num_rows"])
def attend_splits(
    query_ptr, key_ptr, value_ptr, partial_ptr, stats_ptr, tiles_ptr, ranges_ptr, bits_ptr,
    trees_ptr, tables_ptr, query_row, query_head, key_head, key_stride, value_head, value_stride,
    table_stride, num_rows, num_heads, scale, cap,
    GROUP: tl.constexpr, WIDE_GROUP: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr,
    WIDE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr,
    WORDS: tl.constexpr, CAPPED: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Attend with one tile of rows, for one KV head, over one split; the results are partial.

    Program ids are (tile, KV head, split). Splits of which no row sees anything are not written.
    """
    sequence, rows_M, heads_M, valid_M, firsts_M, stops_M, begin, end = _load_tile(
        tiles_ptr, ranges_ptr, GROUP, WIDE_GROUP, TILE
    )
    split = tl.program_id(2)
    if split * SIZE < end and (split + 1) * SIZE > begin:
        dims_D = tl.arange(0, WIDE)
        mask_MD = valid_M[:, None] & (dims_D < DIM)[None, :]
        query_MD = tl.load(
            query_ptr + rows_M[:, None] * query_row + heads_M[:, None] * query_head
            + dims_D[None, :],
            mask=mask_MD,
            other=0.0,
        )  # fmt: skip
        kv_head = tl.program_id(1).to(tl.int64)
        top_M, total_M, sum_MD = _attend_split(
            query_MD, key_ptr + kv_head * key_head, value_ptr + kv_head * value_head, key_stride,
            value_stride, tables_ptr + sequence * table_stride, firsts_M, stops_M,
            bits_ptr + rows_M * WORDS, valid_M, tl.load(trees_ptr + sequence), split * SIZE,
            tl.minimum((split + 1) * SIZE, end), scale, cap, PAGE, DIM, WIDE, TILE, BLOCK, WORDS,
            CAPPED, WIDEN,
        )  # fmt: skip
        place_M = (split.to(tl.int64) * num_rows + rows_M) * num_heads + heads_M
        tl.store(stats_ptr + place_M * 2, top_M, mask=valid_M)
        tl.store(stats_ptr + place_M * 2 + 1, total_M, mask=valid_M)
        tl.store(partial_ptr + place_M[:, None] * DIM + dims_D[None, :], sum_MD, mask=mask_MD)


@triton.jit(do_not_specialize=["num_rows"])
def merge_splits(
    partial_ptr, stats_ptr, ranges_ptr, out_ptr, out_row, out_head, num_rows, num_heads,
    DIM: tl.constexpr, WIDE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Add the splits of one row and head, in their order. Program ids are (row, head)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dims_D = tl.arange(0, WIDE)
    mask_D = dims_D < DIM
    first = tl.load(ranges_ptr + row * 3)
    end = tl.load(ranges_ptr + row * 3 + 2)
    top = tl.full((1,), float("-inf"), tl.float32)
    total = tl.zeros((1,), tl.float32)
    sum_D = tl.zeros((WIDE,), tl.float32)
    step = num_rows * num_heads
    for split in range(first // SIZE, (end + SIZE - 1) // SIZE):
        place = tl.full((1,), split, tl.int64) * step + (row * num_heads + head)
        split_D = tl.load(partial_ptr + place * DIM + dims_D, mask=mask_D, other=0.0)
        top, old, new = _weights_of_two(top, tl.load(stats_ptr + place * 2))
        total = total * old + tl.load(stats_ptr + place * 2 + 1) * new
        sum_D = sum_D * old + split_D * new
    out_D = _divided(sum_D, total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * out_row + head * out_head + dims_D, out_D, mask=mask_D)
