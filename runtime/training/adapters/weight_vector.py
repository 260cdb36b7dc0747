"""Trained weights as one vector in the order of their names, on one rank or split over a group."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from parallel.group import Group
from parallel.training.adamw import Vector
from parallel.training.tensor_split import ModelSplit, TensorSplit


class WeightVector(Protocol):
    """A model's trained weights and their gradients, each as one vector of the whole model."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the whole weights, in the order of the vector."""
        ...

    def values(self) -> Vector:
        """Return the weights; ranks other than 0 return an empty vector."""
        ...

    def assign(self, vector: Vector) -> None:
        """Replace the weights."""
        ...

    def gradients(self) -> Vector:
        """Return the gradients of all ranks; ranks other than 0 return an empty vector."""
        ...


class WholeWeights:
    """The weights of a model that one rank holds alone."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Order the weights by their names."""
        self._weights = dict(sorted(weights.items()))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights' shapes."""
        return {name: tuple(weight.shape) for name, weight in self._weights.items()}

    def values(self) -> Vector:
        """Return the weights."""
        parts = [weight.detach().reshape(-1) for weight in self._weights.values()]
        return torch.cat(parts).cpu().numpy().copy()

    def assign(self, vector: Vector) -> None:
        """Replace the weights."""
        first = 0
        with torch.no_grad():
            for weight in self._weights.values():
                part = torch.from_numpy(vector[first : first + weight.numel()].copy())
                weight.copy_(part.view_as(weight))
                first += weight.numel()

    def gradients(self) -> Vector:
        """Return the gradients."""
        parts = [
            (weight.grad if weight.grad is not None else torch.zeros_like(weight)).reshape(-1)
            for weight in self._weights.values()
        ]
        return torch.cat(parts).cpu().numpy()


class SplitWeights:
    """A rank's parts of the weights of a model that is split over a group.

    Only rank 0 ever holds a vector of the whole model beside the one that it is given.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], split: ModelSplit, group: Group
    ) -> None:
        """Order the parts by the names of their weights; every rank has a part of each."""
        self._weights = dict(sorted(weights.items()))
        self._splits = {name: split.of(name) for name in self._weights}
        self._group = group

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the whole weights."""
        return {
            name: split.whole_shape(self._weights[name].shape)
            for name, split in self._splits.items()
        }

    def values(self) -> Vector:
        """Return the weights of all ranks; every rank calls it."""
        return self._collected({n: w.detach() for n, w in self._weights.items()}, add=False)

    def assign(self, vector: Vector) -> None:
        """Replace this rank's parts by those of a vector of the whole model."""
        first = 0
        with torch.no_grad():
            for name, shape in self.shapes.items():
                stop = first + int(np.prod(shape))
                whole = vector[first:stop].reshape(shape)
                part = whole[self._splits[name].index(self._group.rank)]
                # A copy: shared memory is read-only, of which torch would warn.
                self._weights[name].copy_(torch.from_numpy(part.copy()))
                first = stop

    def gradients(self) -> Vector:
        """Return the gradients of all ranks; every rank calls it."""
        parts = {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad
            for name, weight in self._weights.items()
        }
        return self._collected(parts, add=True)

    def _collected(self, parts: Mapping[str, Tensor], *, add: bool) -> Vector:
        """Return the whole tensors one after the other; overlapping parts are added or equal."""
        is_leader = self._group.rank == 0
        shapes = self.shapes
        size = sum(int(np.prod(shape)) for shape in shapes.values()) if is_leader else 0
        found, first = np.zeros(size, dtype=np.float32), 0
        for name, part in parts.items():
            whole = self._gathered(part, self._splits[name], add=add)
            if is_leader:
                stop = first + whole.numel()
                found[first:stop] = whole.reshape(-1).cpu().numpy()
                first = stop
        return found

    def _gathered(self, part: Tensor, split: TensorSplit, *, add: bool) -> Tensor:
        """Return the whole tensor on rank 0; what others return does not count."""
        group = self._group
        if split.dim is None:
            return group.all_reduce(part.clone()) if add and split.is_summed else part
        sizes = [stop - first for first, stop in split.ranges]
        padded = part.new_zeros(_with_size(part.shape, split.dim, max(sizes)))
        padded.narrow(split.dim, 0, part.shape[split.dim]).copy_(part)
        parts = group.all_gather(padded)
        if group.rank != 0:
            return part
        whole = part.new_zeros(split.whole_shape(part.shape))
        for rank, one in enumerate(parts):
            here, given = whole[split.index(rank)], one.narrow(split.dim, 0, sizes[rank])
            if add:
                here.add_(given)
            else:
                here.copy_(given)
        return whole


def _with_size(shape: torch.Size, dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])
