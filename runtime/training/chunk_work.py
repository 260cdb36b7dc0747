"""What a training worker is given, and what it brings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkWork:
    """A chunk for a worker: alone, or one of several whose weighted sum is wanted."""

    version: int
    """The job whose parameters it is computed at."""
    key: tuple[int, int, int]
    """What the result is known by: (job, worker, part), or (job, chunk, 0) for a chunk alone."""
    samples: tuple[int, ...]
    coefficient: float = 1.0
    first: bool = True
    """Whether the sum begins with this chunk."""
    last: bool = True
    """Whether the sum is to be sent after it."""
    dropout_seed: int = 0
    """What dropout draws from: the model, its step and the chunk decide it, nobody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What a chunk comes to."""

    key: tuple[int, int, int]
    gradient: Vector | None
    """Sum of the tokens' loss gradients; trainable weights one after the other, by name. None
    while more chunks belong to the sum."""
    loss_sum: float
    seconds: float
