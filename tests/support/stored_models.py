"""Small models whose linear layers are in one weight format."""

import torch
from torch import Tensor

from parallel.weights.stored_matrix import Matrix, StoredMatrix
from parallel.weights.weight_format import GROUP, WeightFormat
from tests.support.tiny_transformer import TableSource, TinyModel, tiny_model

FORMATS = tuple(kind for kind in WeightFormat if kind is not WeightFormat.FLOAT16)


def stored(weight: Tensor, kind: WeightFormat, *, has_mins: bool = False) -> Matrix:
    """Return a float weight in a format; groups are scaled by their largest weight."""
    if not kind.is_grouped:
        return weight.to(getattr(torch, kind.value))
    groups = weight.float().view(len(weight), -1, GROUP)
    most = 15 if kind is WeightFormat.INT4 else 255
    if has_mins:
        mins = groups.amin(dim=2).half()
        scales = ((groups.amax(dim=2) - mins.float()) / most).half()
        codes = (groups - mins.float().unsqueeze(2)) / scales.float().unsqueeze(2)
    else:
        mins = None
        scales = (groups.abs().amax(dim=2) / (most // 2)).half()
        codes = groups / scales.float().unsqueeze(2) + (most // 2 + 1)
    rows = codes.round().clamp(0, most).to(torch.uint8).flatten(1)
    if kind is WeightFormat.INT4:
        rows = rows[:, ::2] | rows[:, 1::2] << 4
    return StoredMatrix(format=kind, codes=rows, scales=scales, mins=mins)


class StoredSource(TableSource):
    """Weights whose linear layers are in one format; what falls between groups is float32."""

    def __init__(self, tensors: dict[str, Tensor], kind: WeightFormat, *, has_mins: bool) -> None:
        super().__init__(tensors)
        self._kind, self._has_mins = kind, has_mins

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        matrix = stored(self._tensors[name], self._kind, has_mins=self._has_mins)
        if isinstance(matrix, Tensor):
            return matrix.narrow(dim, first, stop - first).clone()
        if dim == 0:
            return matrix.rows(slice(first, stop))
        part = matrix.columns(first, stop)
        return matrix.dequantized()[:, first:stop].contiguous() if part is None else part

    def dequantized(self) -> TableSource:
        """Return the same weights as float32."""
        return TableSource(
            {
                name: self._as_float(name) if tensor.dim() == 2 else tensor
                for name, tensor in self._tensors.items()
            }
        )

    def _as_float(self, name: str) -> Tensor:
        matrix = stored(self._tensors[name], self._kind, has_mins=self._has_mins)
        return matrix.float() if isinstance(matrix, Tensor) else matrix.dequantized()


def stored_model(
    kind: WeightFormat, family: str = "llama", *, has_mins: bool = False
) -> tuple[TinyModel, StoredSource]:
    """Return a small model, and its weights in a format; each rank of 1 to 3 has whole groups."""
    model = tiny_model(
        family,
        hidden_size=96,
        intermediate_size=192,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
    )
    weights = dict(model.reference.state_dict())
    return model, StoredSource(weights, kind, has_mins=has_mins)
