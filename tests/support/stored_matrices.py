"""Random matrices in stored formats."""

import torch

from parallel.weights.stored_matrix import StoredMatrix
from parallel.weights.weight_format import GROUP, WeightFormat


def random_matrix(
    rows: int,
    columns: int,
    kind: WeightFormat,
    *,
    has_mins: bool = False,
    group_size: int = GROUP,
    seed: int = 0,
) -> StoredMatrix:
    """Return a matrix with scales up to 1 and, perhaps, minima around 0."""
    rng = torch.Generator().manual_seed(seed)
    width = columns // 2 if kind is WeightFormat.INT4 else columns
    groups = (rows, columns // group_size)
    return StoredMatrix(
        format=kind,
        codes=torch.randint(0, 256, (rows, width), generator=rng, dtype=torch.uint8),
        scales=torch.rand(groups, generator=rng).half(),
        mins=torch.randn(groups, generator=rng).half() if has_mins else None,
    )
