"""One byte a scalar: round trips, order, bounded error; and the step that bytes make."""

import hashlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from parallel.training.shared_seed.byte_codec import (
    ABSTAIN,
    FRACTION_BITS,
    MAGNITUDES,
    decode,
    encode,
)
from parallel.training.shared_seed.directions import Direction, signs
from parallel.training.shared_seed.space import DenseSpace
from parallel.training.shared_seed.step import Entry, RoundCommit, WeightReplica

SEED = 11
ONE = 1 << FRACTION_BITS


def test_all_bytes_go_round() -> None:
    for code in range(256):
        if code != ABSTAIN:
            assert encode(decode(code) / ONE, 1.0) == code
    assert decode(ABSTAIN) == 0
    assert encode(0.0, 1.0) == encode(-0.0, 1.0) == 0
    for nothing in (math.nan, math.inf, -math.inf):
        assert encode(nothing, 1.0) == ABSTAIN


def test_tables_are_literal_and_ordered() -> None:
    values = [decode(code) for code in range(128)]
    assert values == sorted(set(values))
    assert [decode(0x80 | code) for code in range(128)] == [-value for value in values]
    digest = hashlib.sha256(",".join(map(str, MAGNITUDES)).encode()).hexdigest()
    assert digest.startswith("949ec466bdea362c")
    for level, value in enumerate(MAGNITUDES[1:], start=1):
        assert value == pytest.approx(ONE * math.exp((level - 80) / 8), abs=0.6)


@pytest.mark.parametrize("unit", [1.0, 0.037, 250.0])
def test_the_error_is_bounded(unit: float) -> None:
    draw = random.Random(0)
    errors = []
    for _ in range(4000):
        value = draw.choice((-1, 1)) * unit * math.exp(draw.uniform(-9.8, 5.8))
        decoded = decode(encode(value, unit)) * unit / ONE
        errors.append(abs(decoded / value - 1))
    assert max(errors) <= 0.066
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) < 0.04
    assert decode(encode(1e9 * unit, unit)) == MAGNITUDES[127]
    assert decode(encode(-1e9 * unit, unit)) == -MAGNITUDES[127]
    assert encode(1e-9 * unit, unit) == 0


def commits(rounds: int, *, momentum: float, decay: float) -> list[RoundCommit]:
    draw = random.Random(5)
    made = []
    for number in range(rounds):
        machines = draw.sample(range(20), draw.randrange(0, 6))
        entries = [Entry(number, m, draw.randbytes(draw.randrange(1, 5))) for m in machines]
        if number > 3 and draw.random() < 0.3:
            entries.append(Entry(number - 2, 33, draw.randbytes(2)))  # a late one
        made.append(
            RoundCommit(
                round=number,
                entries=tuple(entries),
                factor=float(np.float32(1e-11)),
                decay=float(np.float32(decay)),
                momentum=float(np.float32(momentum)),
            )
        )
    return made


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 1.0), (0.9, 1.0), (0.0, 0.999), (0.8, 0.99)])
def test_replicas_are_the_same_whatever_order_entries_came_in(
    momentum: float, decay: float
) -> None:
    start = torch.linspace(-1, 1, 1001)
    replicas = [WeightReplica(DenseSpace(SEED, 1001), start.clone()) for _ in range(2)]
    draw = random.Random(1)
    for commit in commits(60, momentum=momentum, decay=decay):
        mixed = draw.sample(commit.entries, len(commit.entries))
        replicas[0].apply(commit)
        replicas[1].apply(replace(commit, entries=tuple(mixed)))
        assert replicas[0].digest() == replicas[1].digest()
    assert not torch.allclose(replicas[0].theta, start, atol=1e-3)


def test_many_machines_are_one_with_many_samples_by_weight() -> None:
    """The sum alone decides, so equal bytes in equal directions are an equal step."""
    one, two = (WeightReplica(DenseSpace(SEED, 500), torch.zeros(500)) for _ in range(2))
    factor = float(np.float32(1e-9))
    one.apply(RoundCommit(round=0, entries=(Entry(0, 4, bytes([90, 200, 30])),), factor=factor))
    parts = (Entry(0, 4, bytes([90, 0, 30])), Entry(0, 4, bytes([0, 200, ABSTAIN])))
    two.apply(RoundCommit(round=0, entries=parts, factor=factor))
    assert one.digest() == two.digest()


def test_only_the_next_round_is_applied() -> None:
    replica = WeightReplica(DenseSpace(SEED, 4), torch.zeros(4), next_round=5)
    with pytest.raises(ValueError, match="round 5 is next, not 4"):
        replica.apply(RoundCommit(round=4, entries=(), factor=1.0))


def test_a_projected_gradient_points_along_the_gradient() -> None:
    """E[g z] = x for f = |x|^2 / 2 (Spall 1992): the mean over many directions is near x."""
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    z = signs(SEED, [Direction(0, m, 0) for m in range(20_000)], 50).double()
    eps = 1e-3
    difference = ((x + eps * z) ** 2).sum(1) / 2 - ((x - eps * z) ** 2).sum(1) / 2
    estimate = ((difference / (2 * eps)).unsqueeze(1) * z).mean(0)
    assert (estimate - x).norm() / x.norm() < 0.08


@pytest.mark.gpu
def test_a_gpu_replica_is_the_same() -> None:
    start = torch.linspace(-1, 1, 100_003)
    space = DenseSpace(SEED, len(start))
    mine, other = WeightReplica(space, start.clone()), WeightReplica(space, start.clone().cuda())
    for commit in commits(100, momentum=0.9, decay=0.999):
        mine.apply(commit)
        other.apply(commit)
    assert mine.digest() == other.digest()
