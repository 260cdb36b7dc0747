"""Where each trained weight is in the vector of all of them."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parallel.training.adamw import Vector
from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLayout:
    """Names and shapes of the weights, in their order in the vector."""

    shapes: Mapping[str, tuple[int, ...]]
    has_tied_head: bool
    """Whether the model's head is its embedding."""

    @property
    def size(self) -> int:
        """Number of trained weights."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def split(self, vector: Vector) -> dict[str, Vector]:
        """Return the weights by name, without a copy."""
        weights, first = {}, 0
        for name, shape in self.shapes.items():
            stop = first + math.prod(shape)
            weights[name] = vector[first:stop].reshape(shape)
            first = stop
        return weights

    def undecayed(self, patterns: Sequence[str]) -> tuple[slice, ...]:
        """Return where the weights are whose names contain one of some regular expressions.

        Raises:
            ConfigError: no weight's name contains an expression.
        """
        for pattern in patterns:
            if not any(re.search(pattern, name) for name in self.shapes):
                raise ConfigError(
                    f"`optimizer.no_decay` has {pattern!r}, which is in the name of no trained "
                    f"weight; names are like {next(iter(self.shapes))}"
                )
        found, first = [], 0
        for name, shape in self.shapes.items():
            stop = first + math.prod(shape)
            if any(re.search(pattern, name) for pattern in patterns):
                found.append(slice(first, stop))
            first = stop
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPoint:
    """What a job trains, and the values that it starts from."""

    layout: WeightLayout
    parameters: Vector

    @property
    def digest(self) -> str:
        """A digest of the first values."""
        return hashlib.sha256(np.ascontiguousarray(self.parameters).data).hexdigest()
