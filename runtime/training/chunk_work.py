"""The work of a training worker, and its results."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.training.training_data import Sample

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkWork:
    """A chunk for a worker: alone, or one of several that it sums with weights."""

    version: int
    """The parameters to compute at."""
    key: tuple[int, int, int]
    """The key of the result: (job, worker, part), or (step, chunk, 0) for a chunk alone."""
    samples: tuple[int, ...]
    """Their numbers."""
    given: tuple[Sample, ...] = ()
    """The samples themselves, where workers do not hold all."""
    coefficient: float = 1.0
    first: bool = True
    """Whether the sum starts with this chunk."""
    last: bool = True
    """Whether the sum is complete after it, and is returned."""
    dropout_seed: int = 0
    """Seed of dropout: a function of the model, its step and the chunk alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """The result of a chunk."""

    key: tuple[int, int, int]
    gradient: Vector | None
    """Sum of the tokens' loss gradients; trainable weights one after the other, by name. None
    while more chunks belong to the sum."""
    loss_sum: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSums:
    """What is measured of preferences, summed over pairs."""

    num_pairs: int
    loss: float
    num_right: int
    """Pairs whose chosen answer is rewarded more than the rejected one."""
    margin: float
    """By how much."""
