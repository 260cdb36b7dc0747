"""Kernels of one row each: norms with the residual stream, and the gate of a feed-forward block."""

import triton
import triton.language as tl


@triton.jit
def _normalized(x_E, weight_ptr, columns_E, mask_E, eps, SIZE: tl.constexpr,
                ADDS_ONE: tl.constexpr):  # fmt: skip
    """Return a row over its root mean square, times the weight, in float32."""
    weight_E = tl.load(weight_ptr + columns_E, mask=mask_E, other=0.0).to(tl.float32)
    if ADDS_ONE:
        weight_E += 1.0
    return x_E * (1.0 / tl.sqrt(tl.sum(x_E * x_E, 0) / SIZE + eps)) * weight_E


@triton.jit
def norm_rows(
    x_ptr, stream_ptr, inner_weight_ptr, weight_ptr, out_ptr, x_row, stream_row, out_row, eps,
    SIZE: tl.constexpr, WIDE: tl.constexpr, ADDS: tl.constexpr, INNER: tl.constexpr,
    ADDS_ONE: tl.constexpr,
):  # fmt: skip
    """Normalize a row of x; with ADDS, add it to the stream first, and normalize the stream.

    With INNER, x passes through a norm of its own before it is added. Sums are rounded to the
    stream's dtype, as the stream keeps them.
    """
    row = tl.program_id(0).to(tl.int64)
    columns_E = tl.arange(0, WIDE)
    mask_E = columns_E < SIZE
    x_E = tl.load(x_ptr + row * x_row + columns_E, mask=mask_E, other=0.0).to(tl.float32)
    if ADDS:
        kind = stream_ptr.dtype.element_ty
        if INNER:
            x_E = _normalized(x_E, inner_weight_ptr, columns_E, mask_E, eps, SIZE, ADDS_ONE)
            x_E = x_E.to(kind).to(tl.float32)
        place = stream_ptr + row * stream_row + columns_E
        sum_E = (tl.load(place, mask=mask_E, other=0.0).to(tl.float32) + x_E).to(kind)
        tl.store(place, sum_E, mask=mask_E)
        x_E = sum_E.to(tl.float32)
    out_E = _normalized(x_E, weight_ptr, columns_E, mask_E, eps, SIZE, ADDS_ONE)
    out_E = out_E.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * out_row + columns_E, out_E, mask=mask_E)


@triton.jit
def gate_columns(
    gate_up_ptr, out_ptr, gate_up_row, out_row, num_columns,
    BLOCK: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """Write activation(gate) * up for a block of columns. Ids are (row, block)."""
    row = tl.program_id(0).to(tl.int64)
    columns_F = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask_F = columns_F < num_columns
    source = gate_up_ptr + row * gate_up_row + columns_F
    gate_F = tl.load(source, mask=mask_F, other=0.0).to(tl.float32)
    up_F = tl.load(source + num_columns, mask=mask_F, other=0.0).to(tl.float32)
    if GELU:  # x / 2 * (1 + tanh(y)) = x * sigmoid(2 y)
        slope_F = 1.5957691216057308 * (gate_F + 0.044715 * gate_F * gate_F * gate_F)
    else:
        slope_F = gate_F
    falling_F = tl.exp(-tl.abs(slope_F))  # never above 1
    sigmoid_F = tl.where(slope_F >= 0.0, 1.0, falling_F) / (1.0 + falling_F)
    out_F = gate_F * sigmoid_F * up_F
    out_F = out_F.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * out_row + columns_F, out_F, mask=mask_F)
