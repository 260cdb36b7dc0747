"""A model's tensors without their numbers, in the formats in which workers hold them."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from parallel.model.model_config import ModelConfig
from parallel.model.shapes import tensor_shapes
from parallel.weights.quantize import can_quantize
from parallel.weights.stored_matrix import Matrix, StoredMatrix
from parallel.weights.weight_format import GROUP, WeightFormat


class EmptySource:
    """Tensors of the right shapes and formats, as `CheckpointSource` would read them."""

    def __init__(self, config: ModelConfig, precision: str, mode: FakeTensorMode) -> None:
        """Take shapes from a model's configuration, and formats from `base_precision`."""
        self._shapes = tensor_shapes(config)
        self._format = WeightFormat(precision)
        self._mode = mode

    def read(self, name: str) -> Tensor:
        """Return a whole tensor."""
        return self._empty(*self._shapes[name])

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        """Return some of a tensor's rows or columns."""
        shape = self._shapes[name]
        return self._empty(*shape[:dim], stop - first, *shape[dim + 1 :])

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        """Return some of a linear layer's rows or columns, in the format."""
        rows, columns = self.read_slice(name, dim, first, stop).shape
        if not self._format.is_grouped:
            return self._empty(rows, columns, dtype=getattr(torch, self._format))
        is_cut = dim == 1 and (first % GROUP or stop % GROUP)
        if is_cut or not can_quantize(self._shapes[name][1]):
            return self._empty(rows, columns)
        has_mins = self._format is WeightFormat.INT4
        scales, mins = (self._empty(rows, columns // GROUP, dtype=torch.float16) for _ in range(2))
        return StoredMatrix(
            format=self._format,
            codes=self._empty(rows, columns // (2 if has_mins else 1), dtype=torch.uint8),
            scales=scales,
            mins=mins if has_mins else None,
        )

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        with self._mode:
            return torch.empty(shape, dtype=dtype)
