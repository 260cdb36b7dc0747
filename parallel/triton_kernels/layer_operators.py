"""The operators of a layer beside attention: what they accept, and the sizes of their launches."""

import torch
import triton
from torch import Tensor

from parallel.triton_kernels.cache_writes import move_tokens, rotate_and_store
from parallel.triton_kernels.fused_norms import gate_columns, norm_rows
from parallel.triton_kernels.operator_checks import (
    contiguous_ends,
    int32_matrices,
    one_device,
    require,
    same_dtype,
)

# Shape suffixes: R = rows, N = heads of queries, keys and values, K = KV heads, D = head_dim,
# A = addresses, P = positions, E = hidden size, F = columns, L = planes of the cache.

_EXACT = {"enable_fp_fusion": False}
"""Products and sums round apart, as on a CPU."""
_GATE_BLOCK = 1024


@torch.library.custom_op(
    "paceline::store_keys_values", mutates_args=("heads_RND", "keys_KAD", "values_KAD")
)
def store_keys_values(
    heads_RND: Tensor,
    turns_PH2: Tensor,
    positions_R: Tensor,
    addresses_R: Tensor,
    keys_KAD: Tensor,
    values_KAD: Tensor,
    query_norm_D: Tensor | None,
    key_norm_D: Tensor | None,
    eps: float,
    adds_one: bool,
) -> None:
    """Launch rotation and storing; arguments as `StepKernels.rotate_and_store` has them."""
    _check_store(
        heads_RND, turns_PH2, positions_R, addresses_R, keys_KAD, values_KAD, query_norm_D,
        key_norm_D, eps, adds_one,
    )  # fmt: skip
    num_rows, num_heads, dim = heads_RND.shape
    num_kv = len(keys_KAD)
    rotate_and_store[num_rows, num_heads](
        heads_RND, turns_PH2, positions_R, addresses_R, keys_KAD, values_KAD,
        heads_RND if query_norm_D is None else query_norm_D,
        heads_RND if key_norm_D is None else key_norm_D,
        *heads_RND.stride()[:2], *keys_KAD.stride()[:2], *values_KAD.stride()[:2],
        num_heads - 2 * num_kv, num_kv, eps,
        DIM=dim, HALF=triton.next_power_of_2(dim // 2), NORMED=query_norm_D is not None,
        ADDS_ONE=adds_one, num_warps=1, **_EXACT,
    )  # fmt: skip


@store_keys_values.register_fake
def _check_store(
    heads_RND: Tensor,
    turns_PH2: Tensor,
    positions_R: Tensor,
    addresses_R: Tensor,
    keys_KAD: Tensor,
    values_KAD: Tensor,
    query_norm_D: Tensor | None,
    key_norm_D: Tensor | None,
    eps: float,  # noqa: ARG001  # the operator's signature
    adds_one: bool,  # noqa: ARG001  # the operator's signature
) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(
        heads_RND, turns_PH2, positions_R, addresses_R, keys_KAD, values_KAD, query_norm_D,
        key_norm_D,
    )  # fmt: skip
    same_dtype(
        heads=heads_RND, keys=keys_KAD, values=values_KAD, query=query_norm_D, key=key_norm_D
    )
    contiguous_ends(heads=heads_RND, keys=keys_KAD, values=values_KAD)
    int32_matrices(positions=positions_R, addresses=addresses_R)
    num_rows, num_heads, dim = heads_RND.shape
    fits = keys_KAD.shape == values_KAD.shape and keys_KAD.shape[2] == dim
    require(fits and num_heads > 2 * len(keys_KAD), "heads, keys and values differ")
    require(len(positions_R) == num_rows == len(addresses_R), f"rows are not {num_rows} each")
    require(
        turns_PH2.dtype == torch.float32
        and turns_PH2.shape[1:] == (dim // 2, 2)
        and turns_PH2.is_contiguous(),
        "turns are contiguous float32 cosines and sines of each pair",
    )
    require((query_norm_D is None) == (key_norm_D is None), "queries and keys have norms, or none")


@torch.library.custom_op("paceline::move_cached", mutates_args=("cache_LAD",))
def move_cached(cache_LAD: Tensor, offsets: Tensor, moves: Tensor) -> None:
    """Launch moves of cached tokens; arguments as `StepKernels.move` has them."""
    _check_move(cache_LAD, offsets, moves)
    dim = cache_LAD.shape[2]
    move_tokens[len(cache_LAD), len(offsets) - 1](
        cache_LAD, offsets, moves, *cache_LAD.stride()[:2],
        DIM=dim, WIDE=triton.next_power_of_2(dim), num_warps=1,
    )  # fmt: skip


@move_cached.register_fake
def _check_move(cache_LAD: Tensor, offsets: Tensor, moves: Tensor) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(cache_LAD, offsets, moves)
    contiguous_ends(cache=cache_LAD)
    int32_matrices(offsets=offsets, moves=moves)
    require(moves.shape[1:] == (2,) and moves.is_contiguous(), "moves are pairs of addresses")


@torch.library.custom_op("paceline::norm_rows", mutates_args=("stream_RE", "out_RE"))
def normalize(
    x_RE: Tensor,
    stream_RE: Tensor | None,
    inner_weight_E: Tensor | None,
    weight_E: Tensor,
    out_RE: Tensor,
    eps: float,
    adds_one: bool,
) -> None:
    """Launch norms of rows; arguments as `StepKernels.norm` and `add_and_norm` have them."""
    _check_norm(x_RE, stream_RE, inner_weight_E, weight_E, out_RE, eps, adds_one)
    size = x_RE.shape[1]
    stream = x_RE if stream_RE is None else stream_RE
    norm_rows[(len(x_RE),)](
        x_RE, stream, weight_E if inner_weight_E is None else inner_weight_E, weight_E, out_RE,
        x_RE.stride(0), stream.stride(0), out_RE.stride(0), eps,
        SIZE=size, WIDE=triton.next_power_of_2(size), ADDS=stream_RE is not None,
        INNER=inner_weight_E is not None, ADDS_ONE=adds_one, num_warps=8 if size > 2048 else 4,
        **_EXACT,
    )  # fmt: skip


@normalize.register_fake
def _check_norm(
    x_RE: Tensor,
    stream_RE: Tensor | None,
    inner_weight_E: Tensor | None,
    weight_E: Tensor,
    out_RE: Tensor,
    eps: float,  # noqa: ARG001  # the operator's signature
    adds_one: bool,  # noqa: ARG001  # the operator's signature
) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(x_RE, stream_RE, inner_weight_E, weight_E, out_RE)
    same_dtype(x=x_RE, stream=stream_RE, inner=inner_weight_E, weight=weight_E, out=out_RE)
    streams = () if stream_RE is None else (stream_RE,)
    for tensor in (x_RE, out_RE, *streams):
        require(tensor.shape == x_RE.shape and tensor.stride(1) == 1, "rows differ in shape")
    for weight in (weight_E, inner_weight_E):
        fits = weight is None or (weight.shape == x_RE.shape[1:] and weight.is_contiguous())
        require(fits, f"a weight has not {x_RE.shape[1]} values")


@torch.library.custom_op("paceline::gate_columns", mutates_args=("out_RF",))
def gate(gate_up_R2F: Tensor, out_RF: Tensor, gelu: bool) -> None:
    """Launch the gate of a feed-forward block; arguments as `StepKernels.gate` has them."""
    _check_gate(gate_up_R2F, out_RF, gelu)
    num_rows, num_columns = out_RF.shape
    gate_columns[num_rows, triton.cdiv(num_columns, _GATE_BLOCK)](
        gate_up_R2F, out_RF, gate_up_R2F.stride(0), out_RF.stride(0), num_columns,
        BLOCK=_GATE_BLOCK, GELU=gelu, **_EXACT,
    )  # fmt: skip


@gate.register_fake
def _check_gate(
    gate_up_R2F: Tensor,
    out_RF: Tensor,
    gelu: bool,  # noqa: ARG001  # the operator's signature
) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(gate_up_R2F, out_RF)
    same_dtype(gate_up=gate_up_R2F, out=out_RF)
    contiguous_ends(gate_up=gate_up_R2F, out=out_RF)
    rows, columns = out_RF.shape
    require(gate_up_R2F.shape == (rows, 2 * columns), "a row of gate and up is twice one of out")
