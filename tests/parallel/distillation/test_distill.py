"""Distances between distributions: values, zeros, and that making them small raises acceptance."""

import numpy as np
import pytest
import torch

from parallel.distillation.distill import Divergence, divergence
from parallel.distillation.vocabulary import choose_head_tokens, coverage

VOCAB = 12


def distributions(seed: int, rows: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, VOCAB, generator=generator) * 1.5


def everything(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens as candidates, in an order of their own, with their probabilities."""
    probs = logits.softmax(1)
    order = probs.argsort(1, descending=True)
    return order, probs.gather(1, order)


@pytest.mark.parametrize("kind", list(Divergence))
def test_of_full_distributions_is_the_textbook_value(kind: Divergence) -> None:
    drafter, teacher = distributions(1), distributions(2)
    q, p = drafter.softmax(1), teacher.softmax(1)
    expected = {
        Divergence.FORWARD_KL: (p * (p / q).log()).sum(1),
        Divergence.REVERSE_KL: (q * (q / p).log()).sum(1),
        Divergence.TOTAL_VARIATION: (p - q).abs().sum(1) / 2,
    }[kind]
    found = divergence(kind, drafter, *everything(teacher))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", list(Divergence))
def test_of_coarser_distributions_is_a_lower_bound_and_zero_at_equality(kind: Divergence) -> None:
    drafter, teacher = distributions(3), distributions(4)
    ids, probs = everything(teacher)
    full = divergence(kind, drafter, ids, probs)
    coarse = divergence(kind, drafter, ids[:, :4], probs[:, :4])
    assert (coarse <= full + 1e-5).all()
    assert (coarse > 0).all()
    same = divergence(kind, teacher, ids[:, :4], probs[:, :4])
    torch.testing.assert_close(same, torch.zeros(5), atol=1e-5, rtol=0)


def test_candidates_outside_the_head_count_as_any_other_token() -> None:
    """A head that lacks the teacher's best token cannot come closer than that token's mass."""
    probs = torch.tensor([[0.6, 0.4]])
    columns = torch.tensor([[-1, 0]])
    sure = torch.tensor([[50.0, 0.0]])
    found = divergence(Divergence.TOTAL_VARIATION, sure, columns, probs)
    torch.testing.assert_close(found, torch.tensor([0.6]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", list(Divergence))
def test_training_on_it_raises_the_acceptance_rate(kind: Divergence) -> None:
    """DistillSpec's toy: a table of distributions; 1 - total variation is the acceptance rate."""
    teacher = distributions(6, rows=8)
    ids, probs = everything(teacher)
    table = torch.zeros(8, VOCAB, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.1)

    def acceptance() -> float:
        return float(torch.minimum(table.detach().softmax(1), teacher.softmax(1)).sum(1).mean())

    seen = [acceptance()]
    for _ in range(4):
        for _ in range(75):
            optimizer.zero_grad()
            loss = divergence(kind, table, ids[:, :8], probs[:, :8]).mean()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
        seen.append(acceptance())
    assert seen[-1] >= 0.95
    assert seen[1] > seen[0]


def test_the_head_takes_what_was_seen_most_and_fills_up_with_low_ids() -> None:
    counts = np.array([0, 5, 0, 9, 1, 0])
    assert choose_head_tokens(counts, 3).tolist() == [1, 3, 4]
    assert choose_head_tokens(counts, 5).tolist() == [0, 1, 2, 3, 4]
    assert coverage(counts, choose_head_tokens(counts, 2)) == pytest.approx(14 / 15)
    for size in (0, 7):
        with pytest.raises(ValueError, match=f"a head of {size} tokens"):
            choose_head_tokens(counts, size)
