"""AdamW on one vector (Loshchilov and Hutter, arXiv 1711.05101)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
_EPS = 1e-8
_BLOCK = 1 << 18
"""Numbers that are computed at a time: a few temporary blocks of them fit a core's cache."""


@dataclass(slots=True)
class AdamW:
    """Parameters and their moments; every operation is elementwise, so results are bit-equal.

    The vectors are replaced, never written to: a holder of the old ones keeps an intact state.
    """

    parameters: Vector
    first: Vector
    second: Vector
    step: int = 0
    """Steps made, the skipped ones included."""
    num_skipped: int = 0
    """Steps that changed nothing."""
    undecayed: Sequence[slice] = ()
    """Parts of the parameters that do not decay, in order, each with its first number and end."""

    @classmethod
    def start(cls, parameters: Vector) -> "AdamW":
        """Return the optimizer before its first step."""
        return cls(parameters, np.zeros_like(parameters), np.zeros_like(parameters))

    def update(
        self, gradient: Vector, *, lr: float, beta1: float, beta2: float, weight_decay: float
    ) -> None:
        """Update the parameters with a gradient.

        Raises:
            FloatingPointError: a parameter or a moment would not be finite; nothing was changed.
        """
        num_updates = self.step - self.num_skipped + 1
        one, b1, b2 = np.float32(1), np.float32(beta1), np.float32(beta2)
        first, second, parameters = (np.empty_like(self.parameters) for _ in range(3))
        with np.errstate(all="ignore"):
            for part in _blocks(len(gradient)):  # temporary vectors stay small
                grad = gradient[part]
                first[part] = b1 * self.first[part] + (one - b1) * grad
                second[part] = b2 * self.second[part] + (one - b2) * grad * grad
                mean = first[part] / np.float32(1 - beta1**num_updates)
                spread = np.sqrt(second[part] / np.float32(1 - beta2**num_updates))
                kept = self.parameters[part] * np.float32(1 - lr * weight_decay)
                for same in _inside(part, self.undecayed):
                    kept[same.start - part.start : same.stop - part.start] = self.parameters[same]
                parameters[part] = kept - np.float32(lr) * (mean / (spread + np.float32(_EPS)))
        if not all(map(is_finite, (first, second, parameters))):
            raise FloatingPointError("the update is not finite")
        self.parameters, self.first, self.second = parameters, first, second
        self.step += 1

    def skip(self) -> None:
        """Count a step that changes nothing."""
        self.step += 1
        self.num_skipped += 1


def is_finite(vector: Vector) -> bool:
    """Return whether all of a vector's numbers are finite."""
    # A float64 sum of float32 numbers cannot overflow, and needs no second vector.
    with np.errstate(invalid="ignore"):
        return math.isfinite(vector.sum(dtype=np.float64))


def _blocks(size: int) -> list[slice]:
    """Return slices that cut a vector into blocks of a bounded size."""
    return [slice(first, min(first + _BLOCK, size)) for first in range(0, size, _BLOCK)]


def _inside(block: slice, parts: Sequence[slice]) -> list[slice]:
    """Return what a block has of some parts of a vector."""
    cut = (slice(max(p.start, block.start), min(p.stop, block.stop)) for p in parts)
    return [part for part in cut if part.start < part.stop]


def clipped(gradient: Vector, max_norm: float | None) -> tuple[Vector, float]:
    """Return the gradient scaled to at most `max_norm`, if there is one, and its norm before."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = (
            np.square(gradient[part], dtype=np.float64).sum() for part in _blocks(len(gradient))
        )
        norm = math.sqrt(sum(map(float, squares)))
    if max_norm is None or norm <= max_norm or not math.isfinite(norm):
        return gradient, norm
    return gradient * np.float32(max_norm / norm), norm
