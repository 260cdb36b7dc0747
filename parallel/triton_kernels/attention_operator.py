"""The operators that launch attention: what they accept, and the sizes of their launches."""

import torch
import triton
from torch import Tensor

from parallel.triton_kernels.operator_checks import (
    contiguous_ends,
    int32_matrices,
    one_device,
    require,
    same_dtype,
)
from parallel.triton_kernels.paged_attention import (
    SPLIT,
    attend_splits,
    attend_tiles,
    merge_splits,
)

# Shape suffixes: R = rows, H = query heads, K = KV heads, D = head_dim, A = addresses.

_MIN_DIM = 16  # of a product on tensor cores
_LAUNCH = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": False}
"""Fused multiply-adds are off, so that the two ways to add splits round alike."""


def tile_lines(group: int, itemsize: int) -> int:
    """Return the lines, rows times heads, of an attention tile; the same for every batch.

    Tensor cores multiply 64 lines in the time that few lines take; float32 has none to fill.
    """
    lanes: int = triton.next_power_of_2(group)
    return max(64 if itemsize == 2 else 16, lanes)


def block_size(head_dim: int, itemsize: int) -> int:
    """Return the keys of a block: as many as leave room for two blocks in 99 KiB."""
    bytes_of_key = triton.next_power_of_2(head_dim) * itemsize
    return 64 if bytes_of_key <= 256 else 32 if bytes_of_key <= 512 else 16


@torch.library.custom_op(
    "paceline::paged_attention", mutates_args=("out_RHD", "partial_values", "partial_stats")
)
def paged_attention(
    query_RHD: Tensor,
    keys_KAD: Tensor,
    values_KAD: Tensor,
    tiles: Tensor,
    ranges: Tensor,
    bits: Tensor,
    trees: Tensor,
    tables: Tensor,
    out_RHD: Tensor,
    partial_values: Tensor | None,
    partial_stats: Tensor | None,
    page_size: int,
    scale: float,
    cap: float | None,
) -> None:
    """Launch attention; arguments as `StepKernels.attend` has them."""
    _check(
        query_RHD, keys_KAD, values_KAD, tiles, ranges, bits, trees, tables, out_RHD,
        partial_values, partial_stats, page_size, scale, cap,
    )  # fmt: skip
    num_rows, num_heads, dim = query_RHD.shape
    num_kv, size = len(keys_KAD), query_RHD.element_size()
    options = {
        "GROUP": num_heads // num_kv,
        "WIDE_GROUP": triton.next_power_of_2(num_heads // num_kv),
        "PAGE": page_size,
        "DIM": dim,
        "WIDE": max(_MIN_DIM, triton.next_power_of_2(dim)),
        "TILE": tile_lines(num_heads // num_kv, size),
        "BLOCK": block_size(dim, size),
        "SIZE": SPLIT,
        "WORDS": bits.shape[1],
        "CAPPED": cap is not None,
        "WIDEN": triton.knobs.runtime.interpret and query_RHD.dtype == torch.bfloat16,
        **_LAUNCH,
    }
    cache_strides = (*keys_KAD.stride()[:2], *values_KAD.stride()[:2])
    limit = 1.0 if cap is None else cap
    if partial_values is None or partial_stats is None:
        attend_tiles[len(tiles), num_kv](
            query_RHD, keys_KAD, values_KAD, out_RHD, tiles, ranges, bits, trees, tables,
            *query_RHD.stride()[:2], *cache_strides, *out_RHD.stride()[:2], tables.stride(0),
            scale, limit, **options,
        )  # fmt: skip
        return
    attend_splits[len(tiles), num_kv, len(partial_values)](
        query_RHD, keys_KAD, values_KAD, partial_values, partial_stats, tiles, ranges, bits, trees,
        tables, *query_RHD.stride()[:2], *cache_strides, tables.stride(0), num_rows, num_heads,
        scale, limit, **options,
    )  # fmt: skip
    merge_splits[num_rows, num_heads](
        partial_values, partial_stats, ranges, out_RHD, *out_RHD.stride()[:2], num_rows, num_heads,
        DIM=dim, WIDE=options["WIDE"], SIZE=SPLIT, **_LAUNCH,
    )  # fmt: skip


@paged_attention.register_fake
def _check(
    query_RHD: Tensor,
    keys_KAD: Tensor,
    values_KAD: Tensor,
    tiles: Tensor,
    ranges: Tensor,
    bits: Tensor,
    trees: Tensor,
    tables: Tensor,
    out_RHD: Tensor,
    partial_values: Tensor | None,
    partial_stats: Tensor | None,
    page_size: int,
    scale: float,  # noqa: ARG001  # the operator's signature
    cap: float | None,
) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(
        query_RHD, keys_KAD, values_KAD, tiles, ranges, bits, trees, tables, out_RHD,
        partial_values, partial_stats,
    )  # fmt: skip
    same_dtype(query=query_RHD, keys=keys_KAD, values=values_KAD, out=out_RHD)
    contiguous_ends(query=query_RHD, keys=keys_KAD, values=values_KAD, out=out_RHD)
    int32_matrices(tiles=tiles, ranges=ranges, bits=bits, trees=trees, tables=tables)
    num_rows, num_heads, dim = query_RHD.shape
    num_kv = len(keys_KAD)
    require(num_heads % num_kv == 0, f"{num_heads} query heads do not share {num_kv} KV heads")
    fits = keys_KAD.shape == values_KAD.shape and keys_KAD.shape[2] == dim
    require(fits and out_RHD.shape == query_RHD.shape, "queries, keys, values and out differ")
    require(len(ranges) == num_rows and len(bits) == num_rows, f"rows are not {num_rows} each")
    require(tiles.shape[1:] == (3,) and ranges.shape[1:] == (3,), "tiles and ranges have 3 columns")
    require(len(trees) == len(tables), f"{len(trees)} trees for {len(tables)} page tables")
    whole = ranges.is_contiguous() and bits.is_contiguous() and tiles.is_contiguous()
    require(whole, "tiles, ranges and bits must be contiguous")
    require(keys_KAD.shape[1] % page_size == 0, f"the cache is no multiple of {page_size}-pages")
    require(cap is None or cap > 0, f"`cap` is {cap}: it must be positive")
    if partial_values is not None and partial_stats is not None:
        shape = (num_rows, num_heads)
        require(
            partial_values.shape[1:] == (*shape, dim)
            and partial_stats.shape == (len(partial_values), *shape, 2)
            and partial_values.dtype == partial_stats.dtype == torch.float32
            and partial_values.is_contiguous()
            and partial_stats.is_contiguous(),
            "a workspace is two contiguous float32 tensors of each split's rows and heads",
        )
        require(
            len(partial_values) * SPLIT >= tables.shape[1] * page_size,
            f"{len(partial_values)} splits do not cover {tables.shape[1]} pages of {page_size}",
        )
