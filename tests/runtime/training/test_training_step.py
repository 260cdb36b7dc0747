"""A step's update: made, or stopped or skipped where a number is not finite."""

import random
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from parallel.training.adamw import AdamW, Vector
from runtime.training.chunk_work import ChunkResult
from runtime.training.coordinator import OrderedSums
from runtime.training.job.job_config import DataConfig, TrainConfig
from runtime.training.training_step import (
    BatchGradient,
    NotFiniteError,
    SampleSizes,
    make_step,
    microbatches_of,
)
from tests.support import worker_pools
from tests.support.worker_pools import FakePool, make_config, train

BATCHINGS: tuple[Literal["padded", "grouped", "packed"], ...] = ("padded", "grouped", "packed")


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def batch(*values: float, loss_sum: float = 8.0) -> BatchGradient:
    return BatchGradient(total=vector(*values), loss_sum=loss_sum, num_losses=4)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (batch(1.0, 2.0, loss_sum=float("nan")), "step 1: the loss is nan"),
        (batch(1.0, 2.0, loss_sum=float("inf")), "step 1: the loss is inf"),
        (batch(1.0, float("inf")), "step 1: the gradient's norm is inf"),
        (batch(1.0, float("nan")), "step 1: the gradient's norm is nan"),
    ],
)
def test_what_is_not_finite_stops_the_job_or_is_skipped(found: BatchGradient, message: str) -> None:
    optimizer = AdamW.start(vector(1, 2))
    with pytest.raises(NotFiniteError, match=f"{message}. The state after step 0 is kept; train"):
        make_step(optimizer, found, TrainConfig())
    assert optimizer.step == 0
    update = make_step(optimizer, found, TrainConfig(on_nonfinite="skip"))
    assert update.skipped
    assert (optimizer.step, optimizer.num_skipped) == (1, 1)
    assert np.array_equal(optimizer.parameters, vector(1, 2))
    update = make_step(optimizer, batch(1.0, 2.0), TrainConfig(on_nonfinite="skip"))
    assert (update.skipped, update.loss) == (False, 2.0)
    assert not np.array_equal(optimizer.parameters, vector(1, 2))


def test_a_rate_that_float32_cannot_hold_stops_the_job() -> None:
    config = TrainConfig(optimizer=replace(TrainConfig().optimizer, lr=1e300, warmup=0.0))
    with pytest.raises(NotFiniteError, match=r"its update, at the learning rate 1e\+300, has"):
        make_step(AdamW.start(vector(1, 2)), batch(1.0, 2.0), config)


def result(*values: float, loss_sum: float = 1.0) -> ChunkResult:
    return ChunkResult(key=(0, 0, 0), gradient=vector(*values), loss_sum=loss_sum, seconds=1.0)


def test_chunks_are_added_in_their_order_and_the_ones_that_are_not_finite_are_named() -> None:
    values = [1e8, 1.0, -1e8, 3.0]  # in float32, their sum depends on the order
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        sums = OrderedSums(1)
        for chunk in order:
            sums.add(chunk, result(values[chunk], loss_sum=float("nan") if chunk == 1 else 1.0))
        found = sums.gradient(4)
        assert found.total.tolist() == [3.0]
        assert found.not_finite == ["chunk 1"]
        assert sums.most_waiting == {0: 0, 3: 3, 2: 2}[order[0]]
    with pytest.raises(NotFiniteError, match="step 1: the loss or the gradient of chunk 1 is not"):
        make_step(AdamW.start(vector(0)), found, TrainConfig())


def test_many_chunks_that_are_not_finite_are_counted() -> None:
    sums = OrderedSums(1)
    for chunk in range(6):
        sums.add(chunk, result(float("inf")))
    with pytest.raises(
        NotFiniteError, match="of chunk 0 and chunk 1 and chunk 2 and 3 more is not"
    ):
        make_step(AdamW.start(vector(0)), sums.gradient(4), TrainConfig())


@pytest.mark.parametrize("seed", range(4))
def test_a_run_stops_at_the_same_chunk_whatever_workers_do(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(worker_pools.POISONED, 5, float("nan"))
    steps = make_config().optimizer.steps
    pool = FakePool(size=4, rng=random.Random(seed), slow=0.2, dies=0.05)
    with pytest.raises(NotFiniteError) as stopped:
        train(pool, make_config())
    assert "step 3: the loss or the gradient of chunk 1 and chunk 4 is not finite" in str(
        stopped.value
    )
    pool = FakePool(size=4, rng=random.Random(seed), slow=0.2, dies=0.05)
    optimizer, reports = train(pool, replace(make_config(), on_nonfinite="skip"))
    skipped = [report.step for report in reports if report.skipped]
    assert 0 < len(skipped) < steps
    assert optimizer.num_skipped == len(skipped)
    calm, _ = train(
        FakePool(size=2, rng=random.Random(9)), replace(make_config(), on_nonfinite="skip")
    )
    assert np.array_equal(calm.parameters, optimizer.parameters)
    assert np.isfinite(optimizer.parameters).all()


def test_a_batch_is_grouped_by_length_and_stays_the_same_batch() -> None:
    sizes = SampleSizes(num_tokens=[9, 2, 7, 2, 5, 9], num_loss_tokens=[1] * 6)
    ids = [5, 0, 3, 2, 1, 4]
    found = {
        batching: microbatches_of(TrainConfig(data=DataConfig(batching=batching)), ids, 3, sizes)
        for batching in BATCHINGS
    }
    assert found["grouped"] == [[3, 1], [4, 2], [5, 0]]  # equal lengths keep their order
    assert found["padded"] == found["packed"] == [[5, 0], [3, 2], [1, 4]]
