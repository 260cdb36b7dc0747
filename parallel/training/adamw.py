"""AdamW on one vector (Loshchilov and Hutter, arXiv 1711.05101), and its learning rate."""

import math
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
    return [slice(first, first + _BLOCK) for first in range(0, size, _BLOCK)]


def learning_rate(step: int, *, num_steps: int, peak: float, warmup: float, schedule: str) -> float:
    """Return the learning rate of a step.

    Args:
        step: number of the step, from 0.
        num_steps: steps of the whole run.
        peak: the highest rate.
        warmup: share of the steps in which the rate rises to the peak.
        schedule: "constant", "linear" or "cosine", after the warm-up.
    """
    rising = math.ceil(num_steps * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    left = 1 - (step - rising) / max(num_steps - rising, 1)
    if schedule == "linear":
        return peak * left
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * (1 - left)))
    return peak


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
