"""Small models whose linear layers are in one weight format."""

import torch
from torch import Tensor

from parallel.weights.stored_matrix import Matrix, StoredMatrix
from parallel.weights.weight_format import GROUP, HALF_GROUP, WeightFormat
from tests.support.tiny_transformer import TableSource, TinyModel, tiny_model

FORMATS = tuple(WeightFormat)
FORMS: tuple[tuple[WeightFormat, dict[str, bool]], ...] = (
    *((kind, {}) for kind in FORMATS),
    *((kind, {"has_mins": True}) for kind in FORMATS if kind.is_grouped),
    (WeightFormat.INT8, {"has_halves": True}),
)
"""Formats with the options of `stored`."""
FULL_FORMS = tuple((kind, options) for kind, options in FORMS if options or not kind.is_grouped)
"""Those without the simplest form of integer codes."""


def stored(
    weight: Tensor, kind: WeightFormat, *, has_mins: bool = False, has_halves: bool = False
) -> Matrix:
    """Return a float weight in a format; groups, or halves, are scaled by their largest weight."""
    if not kind.is_grouped:
        return weight.to(getattr(torch, kind.value))
    groups = weight.float().view(len(weight), -1, HALF_GROUP if has_halves else GROUP)
    most = 15 if kind is WeightFormat.INT4 else 255
    if has_mins:
        mins = groups.amin(dim=2).half()
        scales = ((groups.amax(dim=2) - mins.float()) / most).half()
        codes = (groups - mins.float().unsqueeze(2)) / scales.float().unsqueeze(2)
    else:
        mins = None
        scales = groups.abs().amax(dim=2) / (most // 2)
        scales = scales if has_halves else scales.half()
        codes = groups / scales.float().unsqueeze(2) + (most // 2 + 1)
    rows = codes.round().clamp(0, most).to(torch.uint8).flatten(1)
    if kind is WeightFormat.INT4:
        rows = rows[:, ::2] | rows[:, 1::2] << 4
    return StoredMatrix(format=kind, codes=rows, scales=scales, mins=mins)


class StoredSource(TableSource):
    """Weights whose linear layers are in one format; what falls between groups is float32."""

    def __init__(self, tensors: dict[str, Tensor], kind: WeightFormat, **options: bool) -> None:
        super().__init__(tensors)
        self._kind, self._options = kind, options

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        matrix = stored(self._tensors[name], self._kind, **self._options)
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
        matrix = stored(self._tensors[name], self._kind, **self._options)
        return matrix.float() if isinstance(matrix, Tensor) else matrix.dequantized()


def stored_model(
    kind: WeightFormat, family: str = "llama", **options: bool
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
    return model, StoredSource(weights, kind, **options)
