"""Linear layers whose weights are frozen, in bfloat16 or integer codes; they compute in float32."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel.weights.stored_matrix import Matrix, StoredMatrix, as_float


class FrozenLinear(nn.Module):
    """x W^T + b, of a W that is converted to the dtype of x for each product and never learns."""

    def __init__(self, matrix: Matrix, bias: Tensor | None = None) -> None:
        """Hold a weight, [out_features, in_features], and a bias, [out_features]."""
        super().__init__()
        self._format = None
        if isinstance(matrix, StoredMatrix):
            self._format = matrix.format
            self.out_features, self.in_features = matrix.num_rows, matrix.num_columns
            self.register_buffer("codes", matrix.codes)
            self.register_buffer("scales", matrix.scales)
            self.register_buffer("mins", matrix.mins)
        else:
            self.out_features, self.in_features = matrix.shape
            frozen = matrix if isinstance(matrix, nn.Parameter) else nn.Parameter(matrix, False)
            frozen.requires_grad = False
            self.weight = frozen
        self.register_buffer("bias", bias)

    @property
    def matrix(self) -> Matrix:
        """The weight as it is held."""
        if self._format is None:
            return self.weight
        codes, scales, mins = self.codes, self.scales, self.mins
        assert isinstance(codes, Tensor)
        assert isinstance(scales, Tensor)
        assert mins is None or isinstance(mins, Tensor)
        return StoredMatrix(format=self._format, codes=codes, scales=scales, mins=mins)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out_features] of x, [..., in_features]."""
        out: Tensor = _FrozenProduct.apply(x, self.matrix)  # type: ignore[no-untyped-call]  # torch's
        bias = self.bias
        assert bias is None or isinstance(bias, Tensor)
        return out if bias is None else out + bias


def weight_of(layer: nn.Linear | FrozenLinear) -> Tensor:
    """Return a layer's weight in numbers, [out_features, in_features]."""
    return as_float(layer.matrix).float() if isinstance(layer, FrozenLinear) else layer.weight


class _FrozenProduct(torch.autograd.Function):
    """A product with a held weight, which keeps no converted copy for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Matrix) -> Tensor:
        """Return x W^T."""
        ctx.matrix = matrix
        return F.linear(x, as_float(matrix).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of x."""
        (grad,) = grads
        return grad @ as_float(ctx.matrix).to(grad.dtype), None
