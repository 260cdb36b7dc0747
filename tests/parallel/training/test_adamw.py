"""AdamW against torch's, and the schedules of its learning rate."""

import math

import numpy as np
import pytest
import torch

from parallel.training.adamw import AdamW, Vector, clipped, is_finite, learning_rate


def test_steps_are_those_of_torch() -> None:
    draw = np.random.default_rng(1)
    start = draw.standard_normal(32).astype(np.float32)
    ours = AdamW.start(start.copy())
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = torch.optim.AdamW([theirs], lr=0.02, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(20):
        gradient = draw.standard_normal(32).astype(np.float32)
        ours.update(gradient, lr=0.02, beta1=0.9, beta2=0.99, weight_decay=0.1)
        theirs.grad = torch.from_numpy(gradient)
        reference.step()
    np.testing.assert_allclose(ours.parameters, theirs.detach().numpy(), rtol=2e-5, atol=1e-6)
    assert ours.step == 20
    assert ours.parameters.dtype == np.float32


def test_the_first_step_moves_each_parameter_by_the_rate_against_its_gradient() -> None:
    optimizer = AdamW.start(np.zeros(3, dtype=np.float32))
    gradient = np.array([5.0, -0.1, 2.0], dtype=np.float32)
    optimizer.update(gradient, lr=0.01, beta1=0.9, beta2=0.999, weight_decay=0.0)
    np.testing.assert_allclose(optimizer.parameters, [-0.01, 0.01, -0.01], rtol=1e-4)


def test_a_skipped_step_is_one_that_torch_does_not_make() -> None:
    start = np.array([1.0, -2.0], dtype=np.float32)
    ours = AdamW.start(start.copy())
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = torch.optim.AdamW([theirs], lr=0.02, betas=(0.9, 0.99), weight_decay=0.0)
    for number in range(6):
        if number in (0, 3):
            ours.skip()
            continue
        gradient = np.array([number, 1.0], dtype=np.float32)
        ours.update(gradient, lr=0.02, beta1=0.9, beta2=0.99, weight_decay=0.0)
        theirs.grad = torch.from_numpy(gradient)
        reference.step()
    np.testing.assert_allclose(ours.parameters, theirs.detach().numpy(), rtol=1e-6)
    assert (ours.step, ours.num_skipped) == (6, 2)


@pytest.mark.parametrize(
    ("gradient", "lr"), [([1.0, np.nan], 0.1), ([1e30, 1.0], 0.1), ([1.0, 1.0], 1e300)]
)
def test_an_update_that_is_not_finite_changes_nothing(gradient: list[float], lr: float) -> None:
    optimizer = AdamW.start(np.ones(2, dtype=np.float32))
    optimizer.update(np.ones(2, dtype=np.float32), lr=0.1, beta1=0.9, beta2=0.999, weight_decay=0.1)
    before = [optimizer.parameters, optimizer.first, optimizer.second]
    copies = [vector.copy() for vector in before]
    with pytest.raises(FloatingPointError):
        optimizer.update(
            np.array(gradient, dtype=np.float32), lr=lr, beta1=0.9, beta2=0.999, weight_decay=0.1
        )
    after = [optimizer.parameters, optimizer.first, optimizer.second]
    assert all(now is then for now, then in zip(after, before, strict=True))
    assert all(np.array_equal(now, then) for now, then in zip(after, copies, strict=True))
    assert optimizer.step == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_makes_a_vector_not_finite_and_large_ones_do_not(bad: float) -> None:
    large: Vector = np.full(1000, np.finfo(np.float32).max, dtype=np.float32)
    assert is_finite(large)
    large[617] = bad
    assert not is_finite(large)
    large[618] = -bad
    assert not is_finite(large)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
    ],
)
def test_a_rate_rises_in_the_warm_up_and_then_follows_its_schedule(
    schedule: str, rates: list[float]
) -> None:
    found = [
        learning_rate(step, num_steps=6, peak=1.0, warmup=0.3, schedule=schedule)
        for step in range(6)
    ]
    assert found == pytest.approx(rates)  # a warm-up of 30% of six steps is two steps


def test_a_run_of_warm_up_alone_ends_at_its_peak() -> None:
    rates = [
        learning_rate(step, num_steps=4, peak=2.0, warmup=1.0, schedule="linear")
        for step in range(4)
    ]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_a_gradient_is_scaled_down_to_the_norm_and_never_up() -> None:
    gradient = np.array([3.0, 4.0], dtype=np.float32)
    short, norm = clipped(gradient, 1.0)
    np.testing.assert_allclose(short, [0.6, 0.8], rtol=1e-6)
    assert norm == 5.0
    for most in (None, 5.0, 6.0):
        same, norm = clipped(gradient, most)
        assert same is gradient
        assert norm == 5.0
