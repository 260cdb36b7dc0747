"""The scheme is rebuilt as workers leave for good, come back, or come late."""

import random
from dataclasses import replace

import numpy as np
import pytest

from parallel.training.adamw import AdamW
from runtime.errors import PeerLost
from runtime.training.job.job_config import TrainConfig
from runtime.training.scheme_plan import training_steps
from runtime.training.training_step import StepReport
from tests.support.worker_pools import SAMPLE_SIZES, SIZE, FakePool, make_config

FOR_EVER = float("inf")
STEPS = 40


def job(scheme: str, *, workers: int = 6) -> TrainConfig:
    config = make_config(steps=STEPS, scheme=scheme, workers=workers)
    return replace(config, optimizer=replace(config.optimizer, batch=64))


def train(config: TrainConfig, pool: FakePool) -> tuple[list[AdamW], list[StepReport], list[str]]:
    optimizers = [AdamW.start(np.zeros(SIZE, dtype=np.float32)) for _ in range(config.num_trials)]
    notes: list[str] = []
    steps = training_steps(config, optimizers, pool, SAMPLE_SIZES, pool, note=notes.append)
    return optimizers, list(steps), notes


@pytest.mark.parametrize("scheme", ["uncoded", "frc-1", "class-1", "sr-sgc-1-2-2", "m-sgc-1-2-2"])
def test_who_leaves_for_good_is_no_straggler_for_ever(scheme: str) -> None:
    config = job(scheme)
    quiet, reports, notes = train(config, FakePool(size=6, rng=random.Random(0)))
    assert not notes
    away = {4: [(15.0, FOR_EVER)], 5: [(15.0, FOR_EVER)]}
    pool = FakePool(size=6, rng=random.Random(0), away=away)
    shrunk, reports, notes = train(config, pool)
    assert notes == ["from now on 4 workers, after 6"]
    assert len(reports) == STEPS * config.num_trials
    assert sum(report.num_stragglers for report in reports[-10:]) < 10  # two a round before
    for a, b in zip(quiet, shrunk, strict=True):
        np.testing.assert_allclose(a.parameters, b.parameters, rtol=2e-3, atol=2e-5)
    assert not pool.parameters, "parameters of a job that was started again are kept"


@pytest.mark.parametrize(
    ("scheme", "workers", "is_bitwise"),
    [("pull", 4, True), ("frc-1", 6, True), ("class-1", 3, True), ("class-1", 5, False)],
)
def test_two_hundred_steps_with_delays_hangs_and_kills_are_the_undisturbed_ones(
    scheme: str, workers: int, is_bitwise: bool
) -> None:
    """Class codes add up in one order where a worker has all chunks of its class, or one."""
    config = make_config(steps=200, scheme=scheme, workers=workers)
    config = replace(config, optimizer=replace(config.optimizer, microbatch=8))
    quiet, _, _ = train(config, FakePool(size=workers, rng=random.Random(0)))
    calm, reports, _ = train(config, FakePool(size=workers, rng=random.Random(1)))
    quiet_losses = [report.loss for report in reports]
    away = {0: [(30.0, 42.0)], workers - 1: [(150.0, 160.0)]}  # killed, and back after a while
    rng = random.Random(2)
    pool = FakePool(size=workers, rng=rng, slow=0.1, hangs=0.015, away=away)
    hit, reports, _ = train(config, pool)
    assert sum(report.num_lost for report in reports) >= 4
    assert pool.num_replaced >= 2
    assert len(reports) == 200
    assert np.array_equal(quiet[0].parameters, calm[0].parameters)
    losses = [report.loss for report in reports]
    if is_bitwise:
        assert np.array_equal(quiet[0].parameters, hit[0].parameters)
        assert losses == quiet_losses
    else:
        np.testing.assert_allclose(quiet[0].parameters, hit[0].parameters, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(losses, quiet_losses, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["frc-1", "m-sgc-1-2-2"])
@pytest.mark.parametrize("seed", range(3))
def test_workers_come_and_go_under_faults(scheme: str, seed: int) -> None:
    config = job(scheme)
    quiet, _, _ = train(config, FakePool(size=6, rng=random.Random(0)))
    away = {
        0: [(20.0, 90.0)],
        3: [(0.0, 30.0), (130.0, FOR_EVER)],
        4: [(0.0, 60.0)],
        5: [(0.0, 10.0)],
    }
    pool = FakePool(size=6, rng=random.Random(seed), slow=0.1, dies=0.01, away=away)
    optimizers, reports, notes = train(config, pool)
    assert len(reports) == STEPS * config.num_trials
    assert len(notes) >= 3
    for a, b in zip(quiet, optimizers, strict=True):
        np.testing.assert_allclose(a.parameters, b.parameters, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("scheme", ["pull", "frc-stream"])
def test_queues_use_the_workers_that_are_there(scheme: str) -> None:
    config = job(scheme)
    quiet, _, _ = train(config, FakePool(size=6, rng=random.Random(0)))
    away = {0: [(3.0, FOR_EVER)], 2: [(0.0, 9.0), (20.0, FOR_EVER)], 4: [(0.0, FOR_EVER)]}
    few, _, _ = train(config, FakePool(size=6, rng=random.Random(1), away=away))
    assert np.array_equal(quiet[0].parameters, few[0].parameters)


@pytest.mark.parametrize("scheme", ["pull", "frc-1", "m-sgc-1-2-2", "auto"])
def test_no_worker_is_waited_for_without_end(scheme: str) -> None:
    away = {worker: [(30.0, FOR_EVER)] for worker in range(6)}
    with pytest.raises(PeerLost, match="was ready for 300 s"):
        train(job(scheme), FakePool(size=6, rng=random.Random(0), away=away))


def test_too_few_for_the_scheme_says_so() -> None:
    away = {worker: [(30.0, FOR_EVER)] for worker in range(2, 6)}
    with pytest.raises(PeerLost, match="frc-2 cannot work with the 2 workers that are left"):
        train(job("frc-2"), FakePool(size=6, rng=random.Random(0), away=away))


def test_the_profile_begins_again_when_workers_change() -> None:
    pool = FakePool(size=6, rng=random.Random(0), away={5: [(0.0, 4.5)]})
    (optimizer,), reports, notes = train(job("auto"), pool)
    assert optimizer.step == STEPS == len(reports)
    assert any("after 5" in note for note in notes)
    assert any(note.startswith("scheme ") for note in notes)
