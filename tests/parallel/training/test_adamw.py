"""AdamW against torch's."""

import numpy as np
import pytest
import torch

from parallel.training.adamw import AdamW, Vector, clipped, is_finite


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


def test_what_does_not_decay_is_one_of_torch_s_groups_without_decay() -> None:
    draw = np.random.default_rng(2)
    size = 600_000  # several blocks, with a part across two of them
    start = draw.standard_normal(size).astype(np.float32)
    spans = [slice(0, 5), slice(100_000, 400_000), slice(size - 7, size)]
    ours = AdamW.start(start.copy())
    ours.undecayed = spans
    is_undecayed = np.zeros(size, dtype=np.bool_)
    for span in spans:
        is_undecayed[span] = True
    groups = [
        torch.nn.Parameter(torch.from_numpy(start[rows])) for rows in (is_undecayed, ~is_undecayed)
    ]
    reference = torch.optim.AdamW(
        [{"params": groups[:1], "weight_decay": 0.0}, {"params": groups[1:], "weight_decay": 0.5}],
        lr=0.02,
    )
    for _ in range(3):
        gradient = draw.standard_normal(size).astype(np.float32)
        ours.update(gradient, lr=0.02, beta1=0.9, beta2=0.999, weight_decay=0.5)
        for group, rows in zip(groups, (is_undecayed, ~is_undecayed), strict=True):
            group.grad = torch.from_numpy(gradient[rows])
        reference.step()
    for group, rows in zip(groups, (is_undecayed, ~is_undecayed), strict=True):
        np.testing.assert_allclose(
            ours.parameters[rows], group.detach().numpy(), rtol=2e-5, atol=1e-6
        )


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


def test_a_gradient_is_scaled_down_to_the_norm_and_never_up() -> None:
    gradient = np.array([3.0, 4.0], dtype=np.float32)
    short, norm = clipped(gradient, 1.0)
    np.testing.assert_allclose(short, [0.6, 0.8], rtol=1e-6)
    assert norm == 5.0
    for most in (None, 5.0, 6.0):
        same, norm = clipped(gradient, most)
        assert same is gradient
        assert norm == 5.0
