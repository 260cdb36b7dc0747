"""Snapshots: a replica's exact state, and nothing damaged or foreign."""

import numpy as np
import pytest
import torch

from parallel.training.shared_seed.space import DenseSpace
from parallel.training.shared_seed.step import Entry, PoolReplica, RoundCommit, WeightReplica
from runtime.errors import ProtocolError
from runtime.training.shared_seed.snapshot import pack_snapshot, restore

SIZE = 50


def replica(size: int = SIZE) -> WeightReplica:
    return WeightReplica(DenseSpace(1, size), torch.zeros(size))


def trained() -> WeightReplica:
    made = replica()
    for number in range(3):
        entries = (Entry(number, 4, bytes([90, 200, 30])),)
        factor = float(np.float32(1e-9))
        made.apply(
            RoundCommit(round=number, entries=entries, factor=factor, momentum=0.5, next_unit=0.3)
        )
    return made


def test_a_replica_goes_there_and_back() -> None:
    one, other = trained(), replica()
    restore(other, pack_snapshot(one))
    assert other.digest() == one.digest()
    assert (other.next_round, other.unit) == (3, 0.3)
    commit = RoundCommit(round=3, entries=(Entry(3, 1, b"\x55"),), factor=1e-9, momentum=0.5)
    one.apply(commit)
    other.apply(commit)
    assert other.digest() == one.digest()


def test_any_flipped_bit_is_found() -> None:
    data = pack_snapshot(trained())
    for place in range(0, len(data), 13):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(ProtocolError, match="damaged"):
            restore(replica(), bytes(damaged))


def test_another_runs_snapshot_is_rejected() -> None:
    with pytest.raises(ProtocolError, match=r"theta has 50 numbers of torch.float32, not 60"):
        restore(replica(60), pack_snapshot(trained()))
    with pytest.raises(ProtocolError, match="has theta, which this run's replicas do not"):
        restore(PoolReplica(1, 8, torch.zeros(SIZE)), pack_snapshot(trained()))
    with pytest.raises(ProtocolError, match="has weights, which this run's replicas do not"):
        restore(replica(), pack_snapshot(PoolReplica(1, 8, torch.zeros(SIZE))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": torch.zeros(SIZE, dtype=torch.float64)}, "theta has 50 numbers of .*float64"),
        ({"theta": torch.full((SIZE,), float("nan"))}, "theta holds NaN or infinity"),
        ({"velocity": torch.zeros(SIZE - 1)}, "velocity has 49 numbers"),
    ],
)
def test_a_snapshot_of_other_numbers_is_rejected(
    change: dict[str, torch.Tensor], message: str
) -> None:
    odd = trained()
    odd.restore(odd.state() | change, next_round=3, unit=0.3)
    with pytest.raises(ProtocolError, match=message):
        restore(replica(), pack_snapshot(odd))


@pytest.mark.parametrize(("number", "unit"), [(-1, 1.0), (3, float("nan")), (3, 0.0)])
def test_a_snapshot_of_no_round_is_rejected(number: int, unit: float) -> None:
    odd = trained()
    odd.next_round, odd.unit = number, unit
    with pytest.raises(ProtocolError, match=f"the snapshot is of round {number}, with a unit of"):
        restore(replica(), pack_snapshot(odd))
