"""Losses among choices."""

import torch
import torch.nn.functional as F

from parallel.training.choices import among_choices


def test_only_choices_are_possible() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    found = among_choices(logits, [(2, 5), (), (1, 7, 8)])
    learned = torch.tensor([5, 0, 8])
    losses = F.cross_entropy(found, learned, reduction="none")
    assert torch.allclose(losses[0], F.cross_entropy(logits[0, [2, 5]], torch.tensor(1)))
    assert torch.allclose(losses[1], F.cross_entropy(logits[1], learned[1]))
    assert torch.allclose(losses[2], F.cross_entropy(logits[2, [1, 7, 8]], torch.tensor(2)))
    assert among_choices(logits, [(), (), ()]) is logits


def test_gradients_pass_to_choices_alone() -> None:
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = among_choices(logits, [(2, 5), (0, 1)])
    F.cross_entropy(found, torch.tensor([2, 1])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    moved = [[place for place in range(6) if row[place] != 0] for row in logits.grad.tolist()]
    assert moved == [[2, 5], [0, 1]]
