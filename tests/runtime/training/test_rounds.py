"""Training in rounds: every scheme gives the serial gradients, whatever is late, dies or hangs."""

import math
import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from parallel.training.adamw import AdamW, Vector
from parallel.training.gradient_coding.names import round_scheme
from parallel.training.gradient_coding.schemes import Scheme
from runtime.training.choose import choose_scheme
from runtime.training.chunk_work import ChunkWork
from runtime.training.rounds import RoundCoordinator
from runtime.training.training_step import BatchGradient, StepReport, batch_of, make_step
from tests.support.worker_pools import (
    SAMPLE_SIZES,
    SIZE,
    FakePool,
    gradient,
    make_config,
)

WORKERS = 6
STEPS = 10
NAMES = (
    "uncoded",
    "frc-1",
    "frc-2",
    "class-1",
    "class-2",
    "cyclic-1",
    "roots-3",
    "sr-sgc-1-2-2",
    "sr-sgc-2-3-2",
    "m-sgc-1-2-2",
    "m-sgc-1-3-3",
    "m-sgc-2-3-2",
)
BITWISE = (
    "uncoded",
    "frc-1",
    "frc-2",
    "sr-sgc-1-2-2",
    "sr-sgc-2-3-2",
    "m-sgc-1-2-2",
    "m-sgc-2-3-2",
)
"""Whose codes come out even, so that copies of a result are sums of the same chunks."""


def scheme_of(name: str) -> Scheme:
    scheme = round_scheme(name, WORKERS)
    assert scheme is not None
    return scheme


def train(
    pool: FakePool,
    name: str,
    optimizers: list[AdamW] | None = None,
    *,
    rounds: int | None = None,
) -> tuple[list[AdamW], list[StepReport]]:
    config = make_config(steps=STEPS, scheme=name, workers=WORKERS)
    config = replace(config, optimizer=replace(config.optimizer, batch=64))
    scheme = scheme_of(name)
    if optimizers is None:
        optimizers = [
            AdamW.start(np.zeros(SIZE, dtype=np.float32)) for _ in range(scheme.delay + 1)
        ]
    coordinator = RoundCoordinator(config, scheme, optimizers, pool, SAMPLE_SIZES, pool)
    reports: list[StepReport] = []
    made = 0
    while not coordinator.is_done and (rounds is None or made < rounds):
        reports += coordinator.round()
        made += 1
    return optimizers, reports


def serial(trial: int) -> AdamW:
    """Train one of the models without any workers."""
    config = make_config(steps=STEPS)
    config = replace(
        config, seed=config.seed + trial, optimizer=replace(config.optimizer, batch=64)
    )
    optimizer = AdamW.start(np.zeros(SIZE, dtype=np.float32))
    for step in range(STEPS):
        total, _ = gradient(optimizer.parameters, batch_of(config, step, SAMPLE_SIZES))
        make_step(optimizer, BatchGradient(total=total, loss_sum=0.0, num_losses=64), config)
    return optimizer


def parameters(optimizers: list[AdamW]) -> list[Vector]:
    return [optimizer.parameters for optimizer in optimizers]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", NAMES)
def test_every_scheme_gives_the_serial_gradients_under_faults(name: str, seed: int) -> None:
    rng = random.Random(seed)
    pool = FakePool(
        size=WORKERS, rng=rng, slow=rng.choice([0, 0.05, 0.2]), dies=rng.choice([0, 0.03]),
        hangs=rng.choice([0, 0.02]),
    )  # fmt: skip
    optimizers, reports = train(pool, name)
    assert len(optimizers) == scheme_of(name).delay + 1
    for trial, optimizer in enumerate(optimizers):
        assert optimizer.step == STEPS
        np.testing.assert_allclose(
            optimizer.parameters, serial(trial).parameters, rtol=2e-3, atol=2e-5
        )
    assert len(reports) == STEPS * len(optimizers)
    assert not pool.parameters, "parameters of a finished job are kept"


@pytest.mark.parametrize("name", BITWISE)
def test_where_copies_are_sums_of_the_same_chunks_no_bit_changes(name: str) -> None:
    quiet, _ = train(FakePool(size=WORKERS, rng=random.Random(0)), name)
    for seed in range(1, 5):
        pool = FakePool(size=WORKERS, rng=random.Random(seed), slow=0.15, dies=0.02, hangs=0.01)
        faulty, reports = train(pool, name)
        for a, b in zip(parameters(quiet), parameters(faulty), strict=True):
            assert np.array_equal(a, b)
        assert sum(report.num_lost for report in reports) > 0 or seed > 1


@pytest.mark.parametrize("name", ["frc-2", "class-2"])
def test_tolerated_stragglers_are_not_waited_for(name: str) -> None:
    plain = FakePool(size=WORKERS, rng=random.Random(5), slow=0.05)
    coded = FakePool(size=WORKERS, rng=random.Random(5), slow=0.05)
    train(plain, "uncoded")
    _, reports = train(coded, name)
    assert sum(report.num_stragglers for report in reports) > 0
    waits = sum(report.waited for report in reports)
    assert waits < len(reports) / 3


def test_a_pattern_that_is_not_tolerated_is_waited_out() -> None:
    pool = FakePool(size=WORKERS, rng=random.Random(1), slow=0.5)
    optimizers, reports = train(pool, "frc-1")
    assert sum(report.waited for report in reports) > 0
    np.testing.assert_allclose(optimizers[0].parameters, serial(0).parameters, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["frc-1", "m-sgc-1-3-2"])
def test_an_interrupted_run_resumes_from_its_steps(name: str) -> None:
    """What was under way and not decoded starts again."""
    whole, _ = train(FakePool(size=WORKERS, rng=random.Random(0)), name)
    half, _ = train(FakePool(size=WORKERS, rng=random.Random(3), slow=0.1), name, rounds=7)
    assert 0 < sum(optimizer.step for optimizer in half) < STEPS * len(half)
    rest, _ = train(FakePool(size=WORKERS, rng=random.Random(4), slow=0.1), name, half)
    for a, b in zip(parameters(whole), parameters(rest), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", ["sr-sgc-1-2-2", "sr-sgc-2-3-2", "m-sgc-2-3-2"])
def test_models_whose_states_are_of_different_steps_end_alike(name: str) -> None:
    """As where one's newest state was damaged, or a run was cut between two states."""
    whole, _ = train(FakePool(size=WORKERS, rng=random.Random(0)), name)
    num_trials = scheme_of(name).delay + 1
    for lag in range(num_trials):
        mixed, _ = train(FakePool(size=WORKERS, rng=random.Random(3)), name, rounds=7 * num_trials)
        behind, _ = train(FakePool(size=WORKERS, rng=random.Random(3)), name, rounds=4 * num_trials)
        assert 0 < behind[lag].step < mixed[lag].step < STEPS
        mixed[lag] = behind[lag]
        rest, reports = train(FakePool(size=WORKERS, rng=random.Random(4), slow=0.1), name, mixed)
        for a, b in zip(whole, rest, strict=True):
            assert b.step == STEPS
            assert np.array_equal(a.parameters, b.parameters)
        assert [r.step for r in reports if r.trial == lag][-1] == STEPS


def test_a_worker_has_no_more_than_a_microbatch_at_a_time() -> None:
    sizes: list[int] = []

    class Watching(FakePool):
        def start(self, worker: int, work: ChunkWork) -> None:
            sizes.append(len(work.samples))
            super().start(worker, work)

    train(Watching(size=WORKERS, rng=random.Random(0)), "frc-2")
    assert set(sizes) == {2}  # of the 32 samples of a worker in a round


def test_what_is_not_wanted_any_more_is_not_started() -> None:
    """A late worker ends its microbatch and gets no other one of that round."""
    started: list[tuple[int, int]] = []

    class Watching(FakePool):
        def start(self, worker: int, work: ChunkWork) -> None:
            started.append((work.version, worker))
            super().start(worker, work)

    pool = Watching(size=WORKERS, rng=random.Random(5), slow=0.1)
    _, reports = train(pool, "frc-2")
    late = sum(report.num_stragglers for report in reports)
    assert late > 0
    whole = 16 * WORKERS * STEPS
    assert whole - 16 * late <= len(started) < whole - late
    assert started == sorted(started, key=lambda one: one[0])  # no worker returns to an old round


def test_dropping_is_unbiased_and_said_to_be_no_gradient() -> None:
    scheme = scheme_of("drop-2")
    assert not scheme.is_exact
    sums = np.arange(1, WORKERS + 1)
    subsets = [set(s) for size in (4, 5, 6) for s in combinations(range(WORKERS), size)]
    for size in (4, 5, 6):
        decoded = [
            sum(a * sums[key[1]] for key, a in weights.items())
            for subset in subsets
            if len(subset) == size
            and (weights := scheme.decode(0, {(0, w, 0): 0 for w in subset})) is not None
        ]
        assert len(decoded) == math.comb(WORKERS, size)
        assert np.mean(decoded) == pytest.approx(sums.sum())
    assert scheme.decode(0, {(0, w, 0): 0 for w in range(3)}) is None
    pool = FakePool(size=WORKERS, rng=random.Random(2), slow=0.2)
    optimizers, reports = train(pool, "drop-2")
    assert sum(report.num_stragglers for report in reports) > 0
    assert optimizers[0].step == STEPS


def test_the_choice_follows_the_profile() -> None:
    draw = np.random.default_rng(0)
    steady = 1 + 0.02 * draw.random((20, 8))
    calm = choose_scheme(steady.tolist(), num_chunks=8, patience=1.0, max_workers=8)
    assert calm.seconds[calm.scheme] <= min(calm.seconds.values())
    assert calm.scheme in ("uncoded", "pull", "frc-stream")
    stormy = np.where(draw.random((20, 8)) < 0.1, 20.0, 1.0) * steady
    choice = choose_scheme(stormy.tolist(), num_chunks=64, patience=1.0, max_workers=8)
    assert choice.scheme == "pull"
    assert choice.seconds["uncoded"] > 3 * choice.seconds["pull"]
    assert "relative to it" in choice.why
    more_to_come = choose_scheme(stormy.tolist(), num_chunks=64, patience=1.0, max_workers=9)
    assert "frc-stream" not in more_to_come.seconds
