"""A model guesses its most probable tokens, and the drawn one first where the target samples."""

import torch

from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
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


def test_only_paths_that_were_scored_have_guesses() -> None:
    model = ModelGuesses()
    model.add((), ROW, sequence(0.0))
    assert model.guesses(model.root())
    assert model.guesses(model.advance(model.root(), 1)) == []
