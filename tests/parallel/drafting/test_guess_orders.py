"""Guesses of a toy drafter in three orders, against what the verifiers accept."""

import numpy as np
import pytest
import torch

from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.drafting.guess_orders import GuessChances, guess_chances

TARGET, DRAFTER = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.2, 0.5, 0.2, 0.1])
SAMPLED = SamplingParams(temperature=1.0)


def chances(
    position: int, target: torch.Tensor = TARGET, params: SamplingParams = SAMPLED
) -> GuessChances:
    rows = ScoreRow(target.log(), None), ScoreRow(DRAFTER.log(), None)
    return guess_chances(*rows, params, RngKey(seed=1, request=1), position, num=4)


def means(num: int, target: torch.Tensor = TARGET) -> dict[str, np.ndarray]:
    found = [chances(position, target) for position in range(num)]
    return {
        name: np.mean([getattr(each, name) for each in found], axis=0)
        for name in ("perturbed", "by_probability", "without_replacement")
    }


def test_a_draft_that_is_drawn_with_the_targets_noise_is_its_token_as_often_as_it_draws_it() -> (
    None
):
    """The first guess of both orders is the drafter's draw; all four tokens hold every token."""
    num = 3000
    key = RngKey(seed=1, request=1)
    rows = ScoreRow(TARGET.log(), None), ScoreRow(DRAFTER.log(), None)
    equal = [
        sample(rows[0], SAMPLED, key, position) == sample(rows[1], SAMPLED, key, position)
        for position in range(num)
    ]
    found = means(num)
    assert found["perturbed"][0] == found["by_probability"][0] == np.mean(equal)
    for name in ("perturbed", "by_probability"):
        assert found[name][3] == 1
        assert (np.diff(found[name]) >= 0).all()


def test_one_independent_draw_passes_with_the_overlap_of_the_distributions() -> None:
    overlap = float(torch.minimum(TARGET, DRAFTER).sum())
    found = means(4000)["without_replacement"]
    assert found[0] == pytest.approx(overlap, abs=0.02)
    assert (np.diff(found) >= 0).all()


def test_draws_without_replacement_pass_as_often_as_a_simulation_of_them() -> None:
    """Two draws and their tests written out, by other numbers than those under test."""
    draw = np.random.default_rng(3)
    target, drafter, passed = TARGET.double().numpy(), DRAFTER.double().numpy(), []
    for _ in range(20000):
        left, given, ok = target.copy(), drafter.copy(), False
        for _ in range(2):
            token = draw.choice(4, p=given / given.sum())
            share = given / given.sum()
            if draw.random() < left[token] / share[token]:
                ok = True
                break
            left = np.maximum(left - share, 0)
            left /= left.sum()
            given[token] = 0
        passed.append(ok)
    found = means(4000)["without_replacement"]
    assert found[1] == pytest.approx(np.mean(passed), abs=0.02)


def test_a_drafter_that_is_the_target_is_right_at_once() -> None:
    found = means(50, target=DRAFTER)
    for name in found:
        assert (found[name] == 1).all()


def test_greedy_all_orders_are_that_of_the_logits() -> None:
    found = chances(0, params=SamplingParams())
    for order in (found.perturbed, found.by_probability, found.without_replacement):
        assert order.tolist() == [0, 1, 1, 1]


def test_draws_have_numbers_of_their_own() -> None:
    """Not those of the target's own sample: its order would look independent, and not be."""
    position = 5
    key = RngKey(seed=1, request=1)
    assert uniform(key, position, Purpose.DRAFT) != uniform(key, position, Purpose.SAMPLE)
