"""A request becomes one `Submit` for each of its samples, with the server's defaults."""

import pytest

from parallel.decoding.types import DecodeMode
from runtime.checking.sampling_fields import Sampling
from runtime.errors import ConfigError, InvalidValue
from runtime.requests.generation_request import GenerationRequest
from runtime.requests.prompts import TextPrompt
from tests.support.serving import toy_model, toy_tokenizer


def ask(text: str = "w1 w2 w3", *resume_from: int, **fields: object) -> GenerationRequest:
    sampling = Sampling(**fields).checked()  # type: ignore[arg-type]  # fields of Sampling
    return GenerationRequest(
        prompts=(TextPrompt(text, "prompt"),),
        sampling=sampling,
        resume_from=resume_from or (0,) * sampling.num_samples,
    )


def test_absent_fields_are_the_servers_defaults() -> None:
    (submit,) = ask().submits(toy_model(), seed=7)
    assert submit.prompt_ids == (1, 2, 3)
    assert (submit.max_tokens, submit.mode, submit.sampling.seed) == (24, DecodeMode.PEARL, 7)


def test_given_fields_come_before_the_defaults() -> None:
    asked = ask(max_tokens=5, mode="speculative", seed=3, temperature=0.5, n=2)
    first, second = asked.submits(toy_model(), seed=7)
    assert (first.max_tokens, first.mode, first.sampling.seed) == (5, DecodeMode.SPECULATIVE, 3)
    assert (first.sample_index, second.sample_index) == (0, 1)
    assert first.sampling == second.sampling


def test_an_answer_ends_where_the_context_does() -> None:
    (submit,) = ask("w1 " * 390, max_tokens=100).submits(toy_model(), seed=0)
    assert submit.max_tokens == 10


@pytest.mark.parametrize("text", ["", "w1 " * 400])
def test_a_prompt_without_tokens_or_room_is_rejected(text: str) -> None:
    with pytest.raises(InvalidValue, match="the prompt has"):
        ask(text).submits(toy_model(), seed=0)


def test_a_client_cannot_have_more_tokens_than_there_are() -> None:
    with pytest.raises(InvalidValue, match="`resume_from` is 25, beyond `max_tokens` 24"):
        ask("w1", 25).submits(toy_model(), seed=0)


def test_a_stop_string_that_no_output_contains_is_rejected() -> None:
    model = toy_model(toy_tokenizer("w9"))
    with pytest.raises(ConfigError, match="contains the special token 'w9'"):
        ask(stop=("w9 w1",)).submits(model, seed=0)
