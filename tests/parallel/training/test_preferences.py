"""The loss of preferences, against its formulas in float64."""

import math

import pytest
import torch

from parallel.training.preferences import preference_losses, reward_margins

POLICY = torch.tensor([[-3.0, -5.0], [-9.0, -2.0], [-1.0, -1.0]], dtype=torch.float64)
REFERENCE = torch.tensor([[-4.0, -4.5], [-8.0, -2.5], [-1.0, -1.0]], dtype=torch.float64)


def test_a_margin_is_the_gain_of_the_chosen_answer_over_the_rejected_one() -> None:
    margins = reward_margins(POLICY, REFERENCE, beta=0.2)
    assert margins.tolist() == pytest.approx([0.2 * 1.5, 0.2 * -1.5, 0.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_a_loss_is_the_negative_log_of_the_chance_of_the_labels(smoothing: float) -> None:
    margins = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
    found = preference_losses(margins, label_smoothing=smoothing).tolist()
    for margin, loss in zip(margins.tolist(), found, strict=True):
        chance = 1 / (1 + math.exp(-margin))
        wanted = -(1 - smoothing) * math.log(chance) - smoothing * math.log(1 - chance)
        assert loss == pytest.approx(wanted)


def test_a_hopeless_pair_has_a_finite_loss_and_gradient() -> None:
    margins = torch.tensor([-1e4, 1e4], requires_grad=True)
    losses = preference_losses(margins, label_smoothing=0.0)
    assert losses.tolist() == [1e4, 0.0]
    losses.sum().backward()  # type: ignore[no-untyped-call]  # torch's
    assert margins.grad is not None
    assert margins.grad.tolist() == [-1.0, 0.0]
