"""Quality of scores, against distributions computed by hand and by torch."""

import math

import pytest
import torch
import torch.nn.functional as F

from parallel.model.score_quality import ScoreQuality, compare_scores


def test_figures_of_two_tokens_are_those_computed_by_hand() -> None:
    reference = torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log()
    scores = torch.tensor([[0.25, 0.75], [0.75, 0.25]]).log() + 3  # a shift changes nothing
    found = compare_scores(scores, reference, torch.tensor([0, 1]))
    assert found.num_tokens == 2
    assert found.perplexity == pytest.approx(4.0)  # of 1/4 and 1/4
    assert found.perplexity_ratio == pytest.approx(math.sqrt(2))  # 1/8 for 1/16
    assert found.mean_kl == pytest.approx(0.5 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3)))
    assert found.agreement == 0.5  # 0 and 1 tie in the reference, whose best is then the first


def test_sums_of_texts_are_those_of_their_tokens_together() -> None:
    generator = torch.Generator().manual_seed(3)
    scores, reference = (torch.randn(9, 30, generator=generator) for _ in range(2))
    tokens = torch.randint(30, (9,), generator=generator)
    parts = [compare_scores(scores[p], reference[p], tokens[p]) for p in (slice(4), slice(4, 9))]
    both = sum(parts, start=ScoreQuality())
    whole = compare_scores(scores, reference, tokens)
    assert both.num_agreed == whole.num_agreed
    assert both.perplexity == pytest.approx(whole.perplexity)
    expected = F.cross_entropy(scores.double(), tokens)
    assert whole.perplexity == pytest.approx(float(expected.exp()))
    kl = F.kl_div(
        scores.double().log_softmax(-1),
        reference.double().log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    assert both.mean_kl == pytest.approx(float(kl))


def test_equal_scores_have_no_divergence() -> None:
    scores = torch.randn(5, 11, generator=torch.Generator().manual_seed(1))
    found = compare_scores(scores, scores, torch.arange(5))
    assert (found.mean_kl, found.perplexity_ratio, found.agreement) == (0.0, 1.0, 1.0)
