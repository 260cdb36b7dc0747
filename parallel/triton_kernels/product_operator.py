"""The operator of products with a weight: what it accepts, and the sizes of its launch."""

import torch
import triton
from torch import Tensor

from parallel.triton_kernels.operator_checks import (
    contiguous_ends,
    one_device,
    require,
    same_dtype,
)
from parallel.triton_kernels.row_products import multiply_rows

# Shape suffixes: R = rows, I = inputs, O = outputs.

_WIDE_OUTPUTS = 16384
"""Outputs from which on a program computes more of them: there are enough to fill a device."""


@torch.library.custom_op("paceline::multiply_rows", mutates_args=("out_RO",))
def multiply(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, out_RO: Tensor) -> None:
    """Launch a product; arguments as `StepKernels.multiply` has them.

    The sizes of tiles depend on the weight alone. Tensor cores multiply 64 lines while a weight is
    read from memory; float32 has no tensor cores to fill.
    """
    _check_multiply(x_RI, weight_OI, bias_O, out_RO)
    num_rows, num_outputs = out_RO.shape
    is_half = x_RI.element_size() == 2
    tile = 64 if is_half else 16
    outputs = 64 if is_half and num_outputs >= _WIDE_OUTPUTS else 32
    multiply_rows[triton.cdiv(num_rows, tile), triton.cdiv(num_outputs, outputs)](
        x_RI, weight_OI, weight_OI if bias_O is None else bias_O, out_RO,
        x_RI.stride(0), weight_OI.stride(0), out_RO.stride(0),
        num_rows, num_outputs, x_RI.shape[1],
        TILE=tile, OUTPUTS=outputs, BLOCK=128 if is_half else 64, BIASED=bias_O is not None,
        WIDEN=triton.knobs.runtime.interpret and x_RI.dtype == torch.bfloat16,
        num_warps=4, num_stages=3, enable_fp_fusion=False,
    )  # fmt: skip


@multiply.register_fake
def _check_multiply(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, out_RO: Tensor) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(x_RI, weight_OI, bias_O, out_RO)
    same_dtype(x=x_RI, weight=weight_OI, bias=bias_O)
    contiguous_ends(x=x_RI, weight=weight_OI, out=out_RO)
    shape = (len(x_RI), len(weight_OI))
    require(x_RI.shape[1] == weight_OI.shape[1], "rows and weight differ in their inputs")
    require(out_RO.shape == shape, f"out is not {shape[0]} rows of {shape[1]} outputs")
    require(out_RO.dtype in (x_RI.dtype, torch.float32), "out is of x's dtype, or float32")
    require(
        bias_O is None or (bias_O.shape == shape[1:] and bias_O.is_contiguous()),
        f"a bias has not {shape[1]} values",
    )
