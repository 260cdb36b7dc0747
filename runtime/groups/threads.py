"""A group whose ranks are threads of one process: the fake for tests."""

import threading
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from runtime.errors import PeerLost, PeerTimeout, ShapeError
from runtime.groups.summing import sum_into

_Value = Tensor | bytes | None


@dataclass(slots=True)
class _Table:
    """The ranks' values; each rank has two slots, used in turn."""

    size: int
    timeout_s: float
    role: str
    changed: threading.Condition = field(default_factory=threading.Condition)
    ops: list[int] = field(default_factory=list)
    values: list[list[_Value]] = field(default_factory=list)
    closed: set[int] = field(default_factory=set)


class ThreadGroup:
    """One rank's member; each member belongs to one thread."""

    def __init__(self, table: _Table, rank: int) -> None:
        self.rank = rank
        self._table = table

    @property
    def size(self) -> int:
        """The number of members."""
        return self._table.size

    @classmethod
    def make(cls, size: int, timeout_s: float, *, role: str = "target") -> list["ThreadGroup"]:
        """Create a group and return its members, in rank order."""
        table = _Table(size, timeout_s, role)
        table.ops = [0] * size
        table.values = [[None] * size, [None] * size]
        return [cls(table, rank) for rank in range(size)]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks in rank order, in place."""
        sum_into(tensor.detach(), self._tensors(tensor))
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return [size, *tensor.shape] in rank order."""
        return torch.stack(self._tensors(tensor))

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        """Return rank 0's payload."""
        sent = self._exchange(payload)[0]
        if not isinstance(sent, bytes):
            raise ShapeError(f"{self._name(0)} is at another operation than a broadcast")
        return sent

    def close(self) -> None:
        """Leave the group: ranks that wait for this one raise PeerLost."""
        with self._table.changed:
            self._table.closed.add(self.rank)
            self._table.changed.notify_all()

    def _tensors(self, tensor: Tensor) -> list[Tensor]:
        values = self._exchange(tensor.detach().clone())
        tensors = [value for value in values if isinstance(value, Tensor)]
        if len(tensors) < self.size or any(value.shape != tensor.shape for value in tensors):
            raise ShapeError(f"the {self._table.role} ranks are at different operations or shapes")
        return tensors

    def _exchange(self, value: _Value) -> list[_Value]:
        table = self._table
        deadline = time.monotonic() + table.timeout_s
        with table.changed:
            op = table.ops[self.rank] + 1
            table.values[op % 2][self.rank] = value
            table.ops[self.rank] = op
            table.changed.notify_all()
            while (missing := self._missing(op)) is not None:
                if missing in table.closed:
                    raise PeerLost(f"{self._name(missing)} closed its group")
                if not table.changed.wait(deadline - time.monotonic()):
                    raise PeerTimeout(
                        f"{self._name(missing)} did not answer within {table.timeout_s:g} s"
                    )
            return list(table.values[op % 2])

    def _missing(self, op: int) -> int | None:
        return next((rank for rank, done in enumerate(self._table.ops) if done < op), None)

    def _name(self, rank: int) -> str:
        return f"{self._table.role} rank {rank} (thread)"
