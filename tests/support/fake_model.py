"""Weights and ranks for fake CUDA tensors: shapes without values."""

from collections.abc import Mapping

import torch
from torch import Tensor

from parallel.weights.stored_matrix import Matrix


class FakeSource:
    """Weights of these shapes on the device; read inside `fake_cuda`."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.bfloat16
    ) -> None:
        self._shapes = shapes
        self._dtype = dtype

    def read(self, name: str) -> Tensor:
        return torch.empty(self._shapes[name], dtype=self._dtype, device="cuda")

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        shape = list(self._shapes[name])
        shape[dim] = stop - first
        return torch.empty(shape, dtype=self._dtype, device="cuda")

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        return self.read_slice(name, dim, first, stop)


class FakeGroup:
    """A rank of a group whose collectives only keep their tensors on the device."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.num_sums = 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        assert tensor.is_cuda
        self.num_sums += 1
        return tensor.mul_(self.size)

    def all_gather(self, tensor: Tensor) -> Tensor:
        assert tensor.is_cuda
        return tensor.new_empty((self.size, *tensor.shape))

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        assert payload is not None
        return payload

    def close(self) -> None:
        pass
