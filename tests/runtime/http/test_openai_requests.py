"""Bodies in OpenAI's form become requests; each error names the field that the caller wrote."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ConfigError, InvalidValue
from runtime.http.openai_requests import read_chat, read_completion
from runtime.requests.prompts import ChatPrompt, TextPrompt, TokenPrompt
from tests.support.serving import CHAT_TEMPLATE, toy_model, toy_tokenizer

TURNS = [{"role": "user", "content": "hi"}]
TOY = toy_model(toy_tokenizer(chat_template=CHAT_TEMPLATE))


def test_absent_fields_have_openais_defaults() -> None:
    asked = read_completion({"prompt": "hi"})
    sampling = asked.generation.sampling
    assert (sampling.temperature, sampling.n, sampling.max_tokens) == (1.0, None, None)
    assert (asked.streams, sampling.model, asked.request_id) == (False, None, "")
    assert asked.generation.resume_from == (0,)


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2]]])
def test_prompts_are_texts_or_token_ids(prompt: Any) -> None:
    for text in ("hi", ["hi"]):
        assert read_completion({"prompt": text}).generation.prompts == (TextPrompt("hi", "prompt"),)
    prompts = read_completion({"prompt": prompt}).generation.prompts
    assert prompts == (TokenPrompt([1, 2], "prompt"),)


def test_several_prompts_have_places_of_their_own() -> None:
    body = {"prompt": ["a", [1, 2], "b"], "n": 2, "stream": True, "request_id": "mine"}
    asked = read_completion(body, "1,2,3,4,5,6").generation
    assert asked.prompts == (
        TextPrompt("a", "prompt[0]"),
        TokenPrompt([1, 2], "prompt[1]"),
        TextPrompt("b", "prompt[2]"),
    )
    assert asked.resume_from == (1, 2, 3, 4, 5, 6)


def test_a_time_limit_is_read() -> None:
    assert read_completion({"prompt": "hi"}).generation.timeout_s is None
    assert read_completion({"prompt": "hi", "timeout_s": 2}).generation.timeout_s == 2.0


def test_a_chat_has_messages_and_either_name_of_its_length() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        asked = read_chat({"messages": TURNS, name: 7, "logprobs": True, "top_logprobs": 3})
        assert isinstance(asked.generation.prompts[0], ChatPrompt)
        assert asked.generation.sampling.max_tokens == 7
        assert asked.generation.sampling.logprobs == 3
    assert read_chat({"messages": TURNS, "logprobs": True}).generation.sampling.logprobs == 0
    assert read_chat({"messages": TURNS, "logprobs": False}).generation.sampling.logprobs is None


def test_other_servers_spelling_of_all_tokens_is_read() -> None:
    assert read_completion({"prompt": "hi", "top_k": -1}).generation.sampling.top_k == 0


def test_a_lost_stream_is_resumed_by_its_last_events_id() -> None:
    body = {"prompt": "hi", "n": 2, "stream": True, "request_id": "mine"}
    assert read_completion(body, "3,14").generation.resume_from == (3, 14)


@pytest.mark.parametrize(
    ("body", "last_event_id", "words"),
    [
        ({"prompt": "hi", "stream": True}, "3", "needs `request_id`"),
        ({"prompt": "hi", "request_id": "mine"}, "3", "last-event-id needs `stream` true"),
        ({"prompt": "hi", "stream": True, "request_id": "m", "n": 2}, "3", "2 numbers"),
        ({"prompt": "hi", "stream": True, "request_id": "m"}, "-3", "last-event-id is '-3'"),
        ({"prompt": "hi", "stream": True, "request_id": "m"}, "\u00b2", "last-event-id is"),
        ({}, None, "`prompt` is missing"),
        ({"prompt": {}}, None, "`prompt` is {}"),
        ({"prompt": ["hi"] * 129}, None, "`prompt` has 129 prompts: 128 at most"),
        ({"prompt": "hi", "timeout_s": 0}, None, "`timeout_s` is 0: it must be between"),
        ({"prompt": "hi", "timeout_s": "3"}, None, "`timeout_s` is '3'"),
        ({"prompt": "hi", "request_id": 3}, None, "`request_id` is 3"),
        ({"prompt": "hi", "model": 3}, None, "`model` is 3"),
        ({"prompt": "hi", "n": 2, "temperature": 0}, None, "`n` is 2 at temperature 0"),
        ({"prompt": "hi", "stop": [""]}, None, r"`stop`\[0\] is empty"),
        ({"prompt": "hi", "mode": "fast"}, None, "`mode` is 'fast'"),
        ({"prompt": "hi", "max_tokens": 0}, None, "`max_tokens` is 0"),
        ({"prompt": "hi", "stream": True, "stream_options": {"x": 1}}, None, "stream_options.x"),
        ({"prompt": "hi", "stream": True, "stream_options": 1}, None, "`stream_options` is 1"),
    ],
)
def test_what_cannot_be_read_is_rejected(
    body: dict[str, Any], last_event_id: str | None, words: str
) -> None:
    with pytest.raises(InvalidValue, match=words):
        read_completion(body, last_event_id)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": None}, "`messages` is missing"),
        ({"messages": "hi"}, "messages is 'hi'"),
        ({"top_logprobs": 3}, "`top_logprobs` is 3: it needs `logprobs` true"),
        ({"max_completion_tokens": 0}, "`max_completion_tokens` is 0"),
        ({"max_completion_tokens": 3, "max_tokens": 4}, "give one of them"),
        ({"prompt": "hi"}, "`prompt` is not a field of this endpoint"),
        ({"response_format": {"type": "xml"}}, "`response_format.type` is 'xml'"),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            "`response_format` and `guided_regex` are given",
        ),
    ],
)
def test_what_a_chat_cannot_have_is_rejected(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        read_chat({"messages": TURNS} | fields)


FIELDS = (
    *("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("top_k", "min_p", "n", "stop", "stop_token_ids", "seed", "min_tokens", "logprobs", "stream"),
    *("top_logprobs", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
    *("stream_options", "tools", "tool_choice", "mode", "priority", "request_id", "ignore_eos"),
    *("return_token_ids", "return_token_sources", "response_format", "best_of", "echo", "user"),
    *("guided_json", "guided_regex", "guided_grammar", "guided_choice", "timeout_s"),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**40)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "function", "auto", "text", "3"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "function", "name", "tool_calls"])
            | st.sampled_from(["arguments", "parameters", "include_usage", "1", "-1", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    body=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6),
    last_event_id=st.none() | st.text(max_size=5),
)
def test_a_body_of_any_values_is_read_or_rejected(
    body: dict[str, Any], last_event_id: str | None
) -> None:
    prompts: tuple[dict[str, Any], ...] = ({"prompt": "w1"}, {"messages": TURNS})
    for read, prompt in zip((read_completion, read_chat), prompts, strict=True):
        for given_body in (body, prompt | body, body | prompt):
            with contextlib.suppress(ConfigError):
                asked = read(given_body, last_event_id)
                asked.generation.submits(TOY, seed=0)
