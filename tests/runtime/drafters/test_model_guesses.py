"""A model guesses its most probable tokens; where the target samples, the order it draws by."""

import math

import numpy as np
import pytest
import torch

from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.drafting.tree import Guess
from parallel.messages import DraftOpen
from runtime.drafters.draft_sequence import DraftSequence
from runtime.drafters.model_guesses import ModelGuesses, guesses_of

ROW = ScoreRow(torch.log(torch.tensor([0.05, 0.6, 0.05, 0.3])), None)


def sequence(temperature: float) -> DraftSequence:
    opened = DraftOpen(
        request=1,
        key=RngKey(seed=0, request=0),
        sampling=SamplingParams(temperature=temperature),
        num_prompt=1,
        capacity=100,
        send_probs=False,
    )
    return DraftSequence(opened, token_ids=[7])


def test_the_most_probable_tokens_come_first_with_their_probability() -> None:
    guesses = guesses_of(ROW, sequence(0.0))
    assert [guess.token for guess in guesses][:2] == [1, 3]
    assert abs(guesses[0].prior - 0.6) < 1e-6
    assert len({guess.token for guess in guesses}) == len(guesses)


def test_the_drawn_token_comes_first_where_the_target_samples() -> None:
    drawn = set()
    for position in range(30):
        found = sequence(1.0)
        found.token_ids += [0] * position
        guesses = guesses_of(ROW, found)
        assert guesses[0].kind[0] == "drawn"
        assert len({guess.token for guess in guesses}) == len(guesses)
        drawn.add(guesses[0].token)
    assert {1, 3} <= drawn


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_siblings_are_the_next_ones_of_the_order_that_the_target_draws_by(
    temperature: float,
) -> None:
    """Log-probability over temperature, less log(-log(u)) with the numbers that the target uses."""
    orders = set()
    for position in range(20):
        found = sequence(temperature)
        found.token_ids += [0] * position
        key = found.opened.key
        scores = [
            float(ROW.logits[token]) / temperature
            - math.log(-math.log(uniform(key, position, Purpose.SAMPLE, index=token)))
            for token in range(4)
        ]
        order = [int(token) for token in np.argsort(scores)[::-1]]
        assert [guess.token for guess in guesses_of(ROW, found)] == order
        orders.add(tuple(order))
    assert len(orders) > 4


def test_a_closer_second_token_is_a_guess_of_another_kind() -> None:
    def second(lead: float) -> Guess:
        return guesses_of(ScoreRow(torch.tensor([lead, 0.0]), None), sequence(0.01))[1]

    assert second(0.001).kind != second(10.0).kind


def test_only_paths_that_were_scored_have_guesses() -> None:
    model = ModelGuesses()
    model.add((), ROW, sequence(0.0))
    assert model.guesses(model.root())
    assert model.guesses(model.advance(model.root(), 1)) == []
