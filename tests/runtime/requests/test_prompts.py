"""Each form of a prompt becomes tokens, or is rejected by the name of its field."""

import pytest

from runtime.errors import ConfigError, InvalidValue
from runtime.requests.prompts import ChatPrompt, Prompt, TextPrompt, TokenPrompt, prompt_ids
from tests.support.serving import toy_model


def test_texts_and_token_ids_become_the_same_tokens() -> None:
    model = toy_model()
    assert prompt_ids(TextPrompt("w4 w5", "prompt"), model) == (4, 5)
    assert prompt_ids(TokenPrompt([4, 5], "prompt"), model) == (4, 5)
    assert prompt_ids(TextPrompt("", "prompt"), model) == ()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (TokenPrompt([4, 48], "prompt"), r"prompt\[1\] is 48: token ids are between 0 and 47"),
        (TokenPrompt([1] * 401, "prompt"), "prompt has 401 tokens, and at most 400 can fit"),
        (TextPrompt("w1 " * 2000, "prompt"), "prompt has 6000 characters, and at most"),
        (ChatPrompt([{"role": "user", "content": "w"}] * 401, "messages"), "401 messages"),
        (ChatPrompt([{"role": "boss", "content": "w1"}], "messages"), r"messages\[0\].role"),
        (ChatPrompt([{"role": "user"}], "messages"), r"messages\[0\] has no content"),
        (
            ChatPrompt([{"role": "user", "content": "w1", "name": "me"}], "messages"),
            r"messages\[0\].name is not supported here",
        ),
    ],
)
def test_an_unusable_prompt_is_rejected_by_its_field(prompt: Prompt, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        prompt_ids(prompt, toy_model())


def test_a_conversation_needs_a_chat_template() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        prompt_ids(ChatPrompt([{"role": "user", "content": "w1"}], "messages"), toy_model())
