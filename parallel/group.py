"""The collective operations that sharded mathematics asks of its peers."""

from typing import Protocol

from torch import Tensor


class Group(Protocol):
    """The ranks of one role (target or drafter) that compute one model together.

    Every rank calls the same operations in the same order with the same shapes. Each call blocks
    until all ranks have made it, or raises an error that names the missing rank once the
    group's deadline has passed.
    """

    @property
    def rank(self) -> int:
        """This member's index, 0 <= rank < size; rank 0 decides for the group."""
        ...

    @property
    def size(self) -> int:
        """The number of members."""
        ...

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over the ranks in place and return it; bit-equal on all ranks."""
        ...

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return [size, *tensor.shape], every rank's tensor in rank order."""
        ...

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        """Return rank 0's payload on every rank; the other ranks pass None."""
        ...

    def close(self) -> None:
        """Release what the group holds; safe to call twice."""
        ...


class SoloGroup:
    """The group of one: every exchange is the identity."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the tensor as it is."""
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return [1, *tensor.shape]."""
        return tensor.unsqueeze(0)

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        """Return the payload as it is."""
        assert payload is not None
        return payload

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
