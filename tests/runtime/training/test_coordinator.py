"""The coordinator against slow, hanging and dying workers: the same bits, whatever happens."""

import random
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from parallel.training.adamw import AdamW, Vector, clipped
from parallel.training.learning_rate import learning_rate
from parallel.training.sampler import split_evenly, step_samples
from runtime.errors import PeerLost
from runtime.training.chunk_work import ChunkResult
from runtime.training.coordinator import OrderedSums, QueueCoordinator
from runtime.training.worker_pool import Arrived, WorkerLost
from tests.support import worker_pools
from tests.support.worker_pools import (
    NUM_SAMPLES,
    SAMPLE_SIZES,
    SIZE,
    FakePool,
    gradient,
    make_config,
    train,
)


def serial(steps: int) -> tuple[AdamW, list[float]]:
    """Train without any pool, chunk after chunk."""
    config = make_config(steps=steps)
    optimizer, losses = AdamW.start(np.zeros(SIZE, dtype=np.float32)), []
    for step in range(steps):
        ids = step_samples(step, num_samples=NUM_SAMPLES, batch=16, seed=3)
        parts = [gradient(optimizer.parameters, part) for part in split_evenly(ids, 8)]
        total = np.zeros(SIZE, dtype=np.float32)
        for part, _ in parts:
            total += part
        losses.append(sum(loss for _, loss in parts) / 16)
        mean, _ = clipped(total / np.float32(16), 1.0)
        lr = learning_rate(step, num_steps=steps, peak=0.05, warmup=0.03, schedule="cosine")
        settings = config.optimizer
        optimizer.update(mean, lr=lr, beta1=settings.beta1, beta2=settings.beta2, weight_decay=0.0)
    return optimizer, losses


@pytest.mark.parametrize("seed", range(25))
def test_the_result_is_the_serial_one_bit_for_bit_under_any_faults(seed: int) -> None:
    rng = random.Random(seed)
    pool = FakePool(
        size=4, rng=rng, slow=rng.choice([0, 0.2]), dies=rng.choice([0, 0.1]),
        hangs=rng.choice([0, 0.05]),
    )  # fmt: skip
    optimizer, reports = train(pool, make_config())
    expected, losses = serial(12)
    assert np.array_equal(optimizer.parameters, expected.parameters)
    assert [report.loss for report in reports] == losses
    assert losses[-1] < losses[0]


def test_faults_really_happen_and_are_counted() -> None:
    pool = FakePool(size=4, rng=random.Random(1), slow=0.2, dies=0.1, hangs=0.05)
    _, reports = train(pool, make_config(steps=30))
    assert sum(report.num_lost for report in reports) > 5
    assert pool.num_replaced > 0
    assert sum(report.num_repeated for report in reports) > 5
    assert sum(report.num_stragglers for report in reports) > 5


def test_where_no_worker_is_late_nothing_is_done_twice() -> None:
    _, reports = train(FakePool(size=4, rng=random.Random(1)), make_config(steps=30))
    assert sum(report.num_repeated for report in reports) == 0
    assert sum(report.num_stragglers for report in reports) == 0


def test_a_straggler_is_not_waited_for() -> None:
    quick = FakePool(size=4, rng=random.Random(1))
    slow = FakePool(size=4, rng=random.Random(1), slow=0.05)
    _, without = train(quick, make_config(steps=30))
    _, with_some = train(slow, make_config(steps=30))
    ideal_s = sum(report.seconds for report in without)
    assert sum(report.seconds for report in with_some) < 1.6 * ideal_s


@pytest.mark.parametrize("dies", [0.0, 0.1])
def test_streaming_groups_train_too(dies: float) -> None:
    config = make_config(scheme="frc-stream")
    plain, _ = train(FakePool(size=4, rng=random.Random(0)), config)
    faulty, _ = train(FakePool(size=4, rng=random.Random(2), slow=0.3, dies=dies), config)
    assert np.array_equal(plain.parameters, faulty.parameters)


def test_a_run_in_two_parts_is_the_run_in_one() -> None:
    config = make_config()
    whole, _ = train(FakePool(size=4, rng=random.Random(0)), config)
    half, _ = train(FakePool(size=4, rng=random.Random(0)), config, steps=5)
    rest, _ = train(FakePool(size=2, rng=random.Random(9)), config, half, steps=7)
    assert np.array_equal(whole.parameters, rest.parameters)
    assert rest.step == 12


def test_too_many_losses_end_the_job_with_the_setting_to_change() -> None:
    config = make_config()
    config = replace(config, workers=replace(config.workers, max_losses=2))
    with pytest.raises(
        PeerLost, match=r"was lost \(killed\), loss number 3 .*`workers.max_losses` allows 2"
    ):
        train(FakePool(size=4, rng=random.Random(0), dies=0.9), config)


def test_every_epoch_takes_every_sample_once() -> None:
    ids = [i for s in range(37) for i in step_samples(s, num_samples=37, batch=16, seed=5)]
    for epoch in range(16):
        assert sorted(ids[epoch * 37 : (epoch + 1) * 37]) == list(range(37))
    assert ids[:37] != ids[37:74]
    assert step_samples(0, num_samples=3, batch=8, seed=0)[:3] != []


def test_the_optimizer_is_torch_s() -> None:
    import torch

    rng = np.random.default_rng(0)
    start = rng.standard_normal(50).astype(np.float32)
    ours = AdamW.start(start.copy())
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for _ in range(20):
        grad = rng.standard_normal(50).astype(np.float32)
        ours.update(grad, lr=0.01, beta1=0.9, beta2=0.999, weight_decay=0.1)
        theirs.grad = torch.from_numpy(grad)
        reference.step()
    np.testing.assert_allclose(ours.parameters, theirs.detach().numpy(), atol=1e-6)


class LargePool(FakePool):
    """Workers whose gradients are long vectors, made as they are returned."""

    def wait(self, timeout_s: float) -> list[Arrived[ChunkResult] | WorkerLost]:
        events = super().wait(timeout_s)
        return [
            replace(event, result=replace(event.result, gradient=np.ones(LONG, dtype=np.float32)))
            if isinstance(event, Arrived)
            else event
            for event in events
        ]


LONG = 1 << 20


@pytest.mark.parametrize("slow", [0.0, 0.3])
def test_a_step_of_many_chunks_holds_few_vectors(
    slow: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_gradient(parameters: Vector, samples: Sequence[int]) -> tuple[Vector, float]:
        return np.ones(1, dtype=np.float32), float(len(samples) + parameters[0])

    monkeypatch.setattr(worker_pools, "gradient", short_gradient)
    config = make_config(steps=3, workers=2)
    config = replace(config, optimizer=replace(config.optimizer, batch=64))
    assert config.num_chunks == 32
    pool = LargePool(size=2, rng=random.Random(1), slow=slow)
    tracemalloc.start()
    try:
        optimizer = AdamW.start(np.zeros(LONG, dtype=np.float32))
        coordinator = QueueCoordinator(config, optimizer, pool, SAMPLE_SIZES, pool)
        for _ in range(config.optimizer.steps):
            kept = replace(optimizer)  # as a state that is being written
            coordinator.step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept.step == optimizer.step - 1
    assert peak < 10.6 * optimizer.parameters.nbytes  # ten vectors, and what is short
    assert np.array_equal(optimizer.parameters, np.full(LONG, optimizer.parameters[0]))


def test_workers_run_at_most_two_chunks_each_ahead_of_the_first_that_is_missing() -> None:
    pool = FakePool(size=4, rng=random.Random(5), slow=0.2)
    config = make_config(steps=8)
    config = replace(config, optimizer=replace(config.optimizer, batch=64))
    waiting = []
    added = OrderedSums.add

    def watched(self: OrderedSums, chunk: int, result: ChunkResult) -> None:
        added(self, chunk, result)
        waiting.append(self.most_waiting)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OrderedSums, "add", watched)
        train(pool, config)
    assert len(waiting) == 8 * config.num_chunks
    assert 1 < max(waiting) < 2 * pool.size
