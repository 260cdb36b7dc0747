"""What a round decided, and the step it makes: the same bits on every replica.

A commit carries its factors as float32; nobody computes them again. Each operation on the weights
is one correctly rounded elementwise operation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from parallel.training.seedlog.codec import ABSTAIN, decode
from parallel.training.seedlog.directions import Direction, weighted_sum


class Entry(NamedTuple):
    """What a machine sent for a round: one byte a direction."""

    round: int
    machine: int
    codes: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a round came to."""

    round: int
    entries: tuple[Entry, ...]
    """By round and machine; late ones have an earlier round."""
    factor: float
    """What the sum of decoded bytes is multiplied by; a float32."""
    decay: float = 1.0
    """What weights are multiplied by before; a float32."""
    momentum: float = 0.0
    """What the velocity is multiplied by; a float32."""
    next_unit: float = 1.0
    """What 1 means in the next round's bytes; a float32."""

    @property
    def num_scalars(self) -> int:
        """Scalars that count."""
        return sum(code != ABSTAIN for entry in self.entries for code in entry.codes)


def directions_of(entries: Sequence[Entry]) -> tuple[list[Direction], list[int]]:
    """Return the directions that entries weigh, and their integer weights."""
    directions, weights = [], []
    for entry in entries:
        for sample, code in enumerate(entry.codes):
            weight = decode(code)
            if weight:
                directions.append(Direction(entry.round, entry.machine, sample))
                weights.append(weight)
    return directions, weights


class Replica:
    """Weights that commits move; `theta` is float32, [P], and never restored by subtraction."""

    def __init__(
        self, seed: int, theta: Tensor, *, velocity: Tensor | None = None, next_round: int = 0
    ) -> None:
        self.theta = theta
        self.velocity = velocity
        self.next_round = next_round
        self._seed = seed

    def apply(self, commit: Commit) -> None:
        """Make a round's step.

        Raises:
            ValueError: it is not the next round's.
        """
        if commit.round != self.next_round:
            raise ValueError(f"round {self.next_round} is next, not {commit.round}")
        directions, weights = directions_of(commit.entries)
        total = weighted_sum(
            self._seed, directions, weights, self.theta.numel(), device=self.theta.device
        )
        step = total.to(torch.float32) * commit.factor
        if commit.momentum:
            if self.velocity is None:
                self.velocity = torch.zeros_like(self.theta)
            kept = self.velocity * commit.momentum
            self.velocity = kept + step
            step = self.velocity
        if commit.decay != 1.0:
            self.theta = self.theta * commit.decay
        self.theta = self.theta - step
        self.next_round += 1

    def digest(self) -> bytes:
        """Return 8 bytes that tell whether two replicas are the same."""
        whole = hashlib.sha256(self.theta.cpu().numpy().tobytes())
        if self.velocity is not None:
            whole.update(self.velocity.cpu().numpy().tobytes())
        return whole.digest()[:8]
