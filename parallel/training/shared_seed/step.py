"""The commit of a round, and the step that it makes: the same bits on every replica.

A commit carries its factors as float32; no replica computes them again. Each operation on the
weights is one correctly rounded elementwise operation.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from parallel.training.shared_seed.byte_codec import ABSTAIN, decode
from parallel.training.shared_seed.directions import POOL_ROUND, Direction, weighted_sum
from parallel.training.shared_seed.space import Space

_MASK64 = (1 << 64) - 1
_POOL_ONE = 1 << 40


class Entry(NamedTuple):
    """A machine's bytes for a round, one for each direction."""

    round: int
    machine: int
    codes: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCommit:
    """The result of a round."""

    round: int
    entries: tuple[Entry, ...]
    """Sorted by round and machine; late ones have an earlier round."""
    factor: float
    """Factor of the sum of decoded bytes; a float32."""
    decay: float = 1.0
    """Factor of the weights before the step; a float32."""
    momentum: float = 0.0
    """Factor of the velocity; a float32."""
    next_unit: float = 1.0
    """The value that 1 stands for in the next round's bytes; a float32."""

    def __post_init__(self) -> None:
        for name in ("factor", "decay", "momentum", "next_unit"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} of round {self.round} is {getattr(self, name)}")

    @property
    def num_scalars(self) -> int:
        """Scalars that count."""
        return sum(code != ABSTAIN for entry in self.entries for code in entry.codes)


def directions_of(entries: Sequence[Entry], pool: int = 0) -> tuple[list[Direction], list[int]]:
    """Return the directions of entries and their integer weights; see `pooled`."""
    directions, weights = [], []
    for entry in entries:
        for sample, code in enumerate(entry.codes):
            weight = decode(code)
            if weight:
                directions.append(pooled(Direction(entry.round, entry.machine, sample), pool))
                weights.append(weight)
    return directions, weights


def pooled(direction: Direction, pool: int) -> Direction:
    """Return the pool's direction for a direction; with a pool of 0, the direction itself.

    With a pool (FedKSeed, arXiv 2312.06353) a run never leaves the space of these directions, and a
    machine that joins needs one number for each.
    """
    if not pool:
        return direction
    mixed = (direction.round << 32 | direction.machine << 16 | direction.sample) + 1
    mixed = mixed * 0x9E3779B97F4A7C15 & _MASK64  # splitmix64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK64
    return Direction(POOL_ROUND, 0, (mixed ^ mixed >> 31) % pool)


class WeightReplica:
    """Weights that commits move; `theta` is float32, [P], and never restored by subtraction."""

    def __init__(
        self, space: Space, theta: Tensor, *, next_round: int = 0, unit: float = 1.0
    ) -> None:
        self.theta = theta
        self.velocity: Tensor | None = None
        self.next_round = next_round
        self.unit = unit
        """The value that 1 stands for in the next round's bytes."""
        self._space = space

    def apply(self, commit: RoundCommit) -> None:
        """Apply the step of a round.

        Raises:
            ValueError: the commit is not the next round's.
        """
        check_next(commit, self.next_round)
        directions, weights = directions_of(commit.entries)
        factor = torch.tensor(commit.factor) * torch.tensor(self._space.scale)
        if commit.momentum and self.velocity is None:
            self.velocity = torch.zeros_like(self.theta)
        for first, stop, total in self._space.totals(directions, weights, self.theta.device):
            step = total.to(torch.float32) * factor
            if commit.momentum and self.velocity is not None:
                kept = self.velocity[first:stop] * commit.momentum
                step = kept + step
                self.velocity[first:stop] = step
            part = self.theta[first:stop]
            if commit.decay != 1.0:
                part = part * commit.decay
            self.theta[first:stop] = part - step
        self.next_round += 1
        self.unit = commit.next_unit

    def digest(self) -> bytes:
        """Return 8 bytes that are equal for equal replicas."""
        return _digest(self.theta, self.velocity)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a snapshot, which also has round and unit."""
        whole = {"theta": self.theta}
        return whole if self.velocity is None else whole | {"velocity": self.velocity}

    def restore(self, state: dict[str, Tensor], *, next_round: int, unit: float) -> None:
        """Continue from another replica's state."""
        self.theta = state["theta"].to(self.theta.device)
        velocity = state.get("velocity")
        self.velocity = None if velocity is None else velocity.to(self.theta.device)
        self.next_round, self.unit = next_round, unit


class PoolReplica:
    """Weights that are their start minus a sum over a pool of directions, by fixed-point weights.

    That sum is kept in integers of 2^-40, so it does not depend on the order of the steps.
    """

    def __init__(self, seed: int, pool: int, theta: Tensor) -> None:
        self.theta = theta
        self.next_round = 0
        self.unit = 1.0
        self.weights = torch.zeros(pool, dtype=torch.int64)
        """Weights of the directions, in units of 2^-40."""
        self._seed = seed
        self._start = theta
        self._total = torch.zeros(theta.numel(), dtype=torch.int64, device=theta.device)

    def apply(self, commit: RoundCommit) -> None:
        """Apply the step of a round.

        Raises:
            ValueError: the commit is not the next round's, or has decay or momentum.
        """
        check_next(commit, self.next_round)
        if commit.decay != 1.0 or commit.momentum:
            raise ValueError("a run with a pool has neither weight decay nor momentum")
        changed: dict[int, int] = {}
        for direction, weight in zip(
            *directions_of(commit.entries, len(self.weights)), strict=True
        ):
            more = round(weight * commit.factor * _POOL_ONE)
            changed[direction.sample] = changed.get(direction.sample, 0) + more
        for place, more in changed.items():
            self.weights[place] += more
        self._add(changed)
        self.next_round += 1
        self.unit = commit.next_unit

    def digest(self) -> bytes:
        """Return 8 bytes that are equal for equal replicas."""
        return _digest(self.theta, self.weights)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a snapshot: a number for each direction of the pool."""
        return {"weights": self.weights}

    def restore(self, state: dict[str, Tensor], *, next_round: int, unit: float) -> None:
        """Continue from another replica's state."""
        self.weights = state["weights"].clone()
        self._total.zero_()
        self._add({place: w for place, w in enumerate(self.weights.tolist()) if w})
        self.next_round, self.unit = next_round, unit

    def _add(self, changed: dict[int, int]) -> None:
        directions = [Direction(POOL_ROUND, 0, place) for place in changed]
        self._total += weighted_sum(
            self._seed,
            directions,
            list(changed.values()),
            self.theta.numel(),
            device=self.theta.device,
        )
        self.theta = self._start - self._total.to(torch.float32) * (1 / _POOL_ONE)


AnyReplica = WeightReplica | PoolReplica


def check_next(commit: RoundCommit, next_round: int) -> None:
    """Raise ValueError unless a commit is the next round's."""
    if commit.round != next_round:
        raise ValueError(f"round {next_round} is next, not {commit.round}")


def _digest(theta: Tensor, more: Tensor | None) -> bytes:
    whole = hashlib.sha256(theta.cpu().numpy().tobytes())
    if more is not None:
        whole.update(more.cpu().numpy().tobytes())
    return whole.digest()[:8]
