"""A worker's gradients: of the chunk alone, with dropout, in less memory, in lower precision."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from parallel.training.adamw import Vector
from runtime.training.chunk_work import ChunkResult, ChunkWork
from runtime.training.job.job_config import LoraConfig, TrainConfig
from runtime.training.timed_worker import TimedSpec, TimedWorker, start_vector
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample
from runtime.training.worker import TrainWorker
from tests.support.tiny_checkpoint import save_tiny_checkpoint

SAMPLES = [Sample(tuple(range(first, first + 9)), 3) for first in range(1, 9)]
WORK = ChunkWork(version=0, key=(0, 0, 0), samples=(0, 3, 5), dropout_seed=7)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "tiny")


def gradient(directory: Path, config: TrainConfig, work: ChunkWork = WORK) -> Vector:
    worker = TrainWorker(directory, config, SAMPLES)
    start = Trainable.load(directory, config).get()
    start[::7] += 0.05  # B is not 0, so that A learns too
    found = worker.work(work, start, 0, 0).gradient
    assert found is not None
    return found


def test_dropout_depends_on_its_seed_alone(tiny: Path) -> None:
    plain = gradient(tiny, TrainConfig())
    config = TrainConfig(lora=LoraConfig(dropout=0.3))
    dropped = gradient(tiny, config)
    assert not np.allclose(plain, dropped)
    worker = TrainWorker(tiny, config, SAMPLES)
    start = Trainable.load(tiny, config).get()
    start[::7] += 0.05
    for seed in (9, 7, 8, 7):  # whatever the worker did before
        work = ChunkWork(version=0, key=(0, 0, 0), samples=WORK.samples, dropout_seed=seed)
        found = worker.work(work, start, 0, 0).gradient
        assert found is not None
        assert np.array_equal(found, dropped) == (seed == 7)
    groups, right = [[SAMPLES[0], SAMPLES[1]]], [0]
    hits = [worker.correct(start, groups, right) for _ in range(3)]
    assert len(set(hits)) == 1  # nothing is dropped where it is measured


@pytest.mark.parametrize("method", ["lora", "full"])
def test_less_memory_gives_the_same_gradient(tiny: Path, method: Literal["lora", "full"]) -> None:
    plain = gradient(tiny, TrainConfig(method=method))
    checkpointed = gradient(tiny, TrainConfig(method=method, gradient_checkpointing=True))
    assert np.array_equal(plain, checkpointed)
    assert np.abs(plain).max() > 0


def test_bfloat16_products_give_about_the_same_gradient(tiny: Path) -> None:
    plain = gradient(tiny, TrainConfig())
    lower = gradient(tiny, TrainConfig(precision="bfloat16"))
    assert lower.dtype == np.float32
    assert not np.array_equal(plain, lower)
    cosine = plain @ lower / np.linalg.norm(plain) / np.linalg.norm(lower)
    assert cosine > 0.98


def test_a_sum_of_chunks_is_their_weighted_gradients(tiny: Path) -> None:
    config = TrainConfig()
    worker = TrainWorker(tiny, config, SAMPLES)
    start = Trainable.load(tiny, config).get()
    start[::7] += 0.05
    parts: list[ChunkResult] = []
    for index, (samples, weight) in enumerate((((0, 1), 2.0), ((2,), -0.5))):
        work = ChunkWork(
            version=0,
            key=(0, 0, 0),
            samples=samples,
            coefficient=weight,
            first=index == 0,
            last=index == 1,
        )
        parts.append(worker.work(work, start, 0, 0))
    assert parts[0].gradient is None
    assert parts[1].gradient is not None
    wanted = np.zeros_like(start)
    for samples, weight in (((0, 1), 2.0), ((2,), -0.5)):
        alone = worker.work(ChunkWork(version=0, key=(0, 0, 0), samples=samples), start, 0, 0)
        assert alone.gradient is not None
        wanted += weight * alone.gradient
    np.testing.assert_allclose(parts[1].gradient, wanted, rtol=1e-4, atol=1e-6)


def test_a_timed_worker_waits_as_long_as_it_should() -> None:
    waits: list[float] = []
    spec = TimedSpec(sample_s=0.5, num_samples=40, slow=0.3, factor=10.0, seed=1)
    worker = TimedWorker(spec, waits.append)
    for version in range(60):
        work = ChunkWork(version=version, key=(version, 0, 0), samples=(1, 2, 3, 4))
        result = worker.work(work, start_vector(), 0, 0)
        assert result.gradient is not None
        assert np.abs(result.gradient).max() > 0
    slow = [wait for wait in waits if wait > 10]
    assert 6 <= len(slow) <= 30
    assert all(19 < wait <= 20 for wait in slow)
    assert all(1.5 < wait <= 2 for wait in waits if wait < 10)
    first = [worker.work(WORK, start_vector(), number, 0).key for number in range(3)]
    assert first == [WORK.key] * 3
