"""Products with a weight in which a row's bits depend on nothing but the row and the weight.

cuBLAS chooses kernels, and with them the order of a sum, by the number of rows. Here every tile has
the same number of lines, and adds over the inputs in blocks of one size, in their order, so that a
row alone, in a chain of drafts and in a prompt is the same sum.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def multiply_rows(
    x_ptr, weight_ptr, bias_ptr, out_ptr, x_row, weight_row, out_row, num_rows, num_outputs,
    num_inputs,
    TILE: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr, BIASED: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Write x W^T + bias for one tile of rows and one of outputs. Ids are (rows, outputs).

    Programs that read the same weights have neighboring ids, so that they find them in the cache.
    """
    rows_M = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    outputs_N = (tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)).to(tl.int64)
    inputs_K = tl.arange(0, BLOCK)
    is_row_M = rows_M < num_rows
    is_output_N = outputs_N < num_outputs
    sum_MN = tl.zeros((TILE, OUTPUTS), tl.float32)
    for start in range(0, num_inputs, BLOCK):
        here_K = start + inputs_K
        is_input_K = here_K < num_inputs
        x_MK = tl.load(
            x_ptr + rows_M[:, None] * x_row + here_K[None, :],
            mask=is_row_M[:, None] & is_input_K[None, :],
            other=0.0,
        )
        weight_KN = tl.load(
            weight_ptr + outputs_N[None, :] * weight_row + here_K[:, None],
            mask=is_output_N[None, :] & is_input_K[:, None],
            other=0.0,
        )
        if WIDEN:  # the interpreter multiplies the bit patterns of bfloat16
            x_MK = x_MK.to(tl.float32)
            weight_KN = weight_KN.to(tl.float32)
        sum_MN = tl.dot(x_MK, weight_KN, sum_MN, input_precision="ieee")
    if BIASED:
        bias_N = tl.load(bias_ptr + outputs_N, mask=is_output_N, other=0.0)
        sum_MN += bias_N.to(tl.float32)[None, :]
    tl.store(
        out_ptr + rows_M[:, None] * out_row + outputs_N[None, :],
        sum_MN.to(out_ptr.dtype.element_ty),
        mask=is_row_M[:, None] & is_output_N[None, :],
    )
