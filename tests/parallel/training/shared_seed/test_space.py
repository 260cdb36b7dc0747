"""Steps in all kinds of directions: exact sums, low rank, and pools of directions."""

import random

import numpy as np
import pytest
import torch

from parallel.training.shared_seed.directions import POOL_ROUND, Direction, signs
from parallel.training.shared_seed.space import LowRankSpace
from parallel.training.shared_seed.step import (
    Entry,
    PoolReplica,
    RoundCommit,
    WeightReplica,
    pooled,
)

SEED = 3
SHAPES = ((6, 10), (4, 4), (9, 2))


def test_low_rank_sums_are_the_sums_of_outer_products() -> None:
    space = LowRankSpace(SEED, SHAPES, rank=2)
    directions = [Direction(t, m, 0) for t in range(2) for m in range(7)]
    weights = [random.Random(n).randrange(-(6 * 10**9), 6 * 10**9) for n in range(14)]
    parts = list(space.totals(directions, weights, "cpu"))
    assert [(part.first, part.stop) for part in parts] == [(0, 60), (60, 76), (76, 94)]
    drawn = signs(SEED, directions, space.num_factors).to(torch.int64)
    first = 0
    for part, (rows, columns) in zip(parts, SHAPES, strict=True):
        plain = torch.zeros(rows, columns, dtype=torch.int64)
        for row, weight in zip(drawn, weights, strict=True):
            left = row[first : first + 2 * rows].view(rows, 2)
            right = row[first + 2 * rows : first + 2 * (rows + columns)].view(columns, 2)
            plain += weight * (left @ right.T)
        assert torch.equal(part.total.to(torch.int64), plain.flatten())
        first += 2 * (rows + columns)


def test_low_rank_sums_stay_exact_or_are_rejected() -> None:
    space = LowRankSpace(SEED, ((2, 2),), rank=4)
    many = [Direction(0, n % 60000, n // 60000) for n in range(1 << 18)]
    with pytest.raises(ValueError, match="at most 262144"):
        list(space.totals(many, [1] * len(many), "cpu"))
    assert space.scale == 0.5


def test_low_rank_directions_have_a_mean_square_of_one() -> None:
    space = LowRankSpace(SEED, ((200, 300),), rank=4)
    (part,) = space.totals([Direction(0, 0, 0)], [1], "cpu")
    square = (part.total * space.scale).square().mean()
    assert abs(float(square) - 1) < 0.15


def random_commits(rounds: int, scalars: int = 5) -> list[RoundCommit]:
    draw = random.Random(2)
    return [
        RoundCommit(
            round=number,
            entries=tuple(Entry(number, m, draw.randbytes(scalars)) for m in range(3)),
            factor=float(np.float32(1e-11 * draw.uniform(0.5, 2))),
        )
        for number in range(rounds)
    ]


def test_a_pool_replica_is_the_same_however_it_was_come_by() -> None:
    start = torch.linspace(-1, 1, 300)
    whole, half = PoolReplica(SEED, 16, start), PoolReplica(SEED, 16, start)
    commits = random_commits(40)
    for commit in commits:
        whole.apply(commit)
    for commit in commits[:25]:
        half.apply(commit)
    joined = PoolReplica(SEED, 16, start)
    joined.restore(half.state(), next_round=25, unit=half.unit)
    assert joined.digest() == half.digest()
    for commit in commits[25:]:
        joined.apply(commit)
    assert joined.digest() == whole.digest()
    assert joined.state()["weights"].numel() == 16
    joined.restore(whole.state(), next_round=40, unit=whole.unit)  # of one that was elsewhere
    assert joined.digest() == whole.digest()
    moved = (whole.theta - start).double()
    pool = signs(SEED, [Direction(POOL_ROUND, 0, k) for k in range(16)], 300).double()
    inside = torch.linalg.lstsq(pool.T, moved.unsqueeze(1)).solution
    assert (pool.T @ inside - moved.unsqueeze(1)).norm() < 1e-5 * moved.norm()
    assert moved.norm() > 0.1


def test_a_pool_is_drawn_from_evenly() -> None:
    counts = np.zeros(64)
    for t in range(50):
        for m in range(20):
            for k in range(8):
                direction = pooled(Direction(t, m, k), 64)
                assert direction.round == POOL_ROUND
                counts[direction.sample] += 1
    assert 80 < counts.min() <= counts.max() < 170  # 125 in the mean
    assert pooled(Direction(1, 2, 3), 0) == Direction(1, 2, 3)


def test_a_pool_has_no_decay() -> None:
    replica = PoolReplica(SEED, 4, torch.zeros(8))
    with pytest.raises(ValueError, match="neither weight decay nor momentum"):
        replica.apply(RoundCommit(round=0, entries=(), factor=1.0, decay=0.5))


def test_a_replica_resumes_from_a_state_with_momentum() -> None:
    space = LowRankSpace(SEED, SHAPES, rank=1)
    whole, half = (WeightReplica(space, torch.zeros(space.size)) for _ in range(2))
    commits = [
        RoundCommit(round=c.round, entries=c.entries, factor=c.factor, momentum=0.5, decay=0.75)
        for c in random_commits(20)
    ]
    for commit in commits:
        whole.apply(commit)
    for commit in commits[:9]:
        half.apply(commit)
    other = WeightReplica(space, torch.zeros(space.size))
    state = {name: tensor.clone() for name, tensor in half.state().items()}
    other.restore(state, next_round=9, unit=half.unit)
    for commit in commits[9:]:
        other.apply(commit)
    assert other.digest() == whole.digest()
    assert whole.theta.abs().max() > 0
