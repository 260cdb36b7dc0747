"""Chat templates that take too long, or look at more of a message than its content."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from runtime.errors import ConfigError
from runtime.models.chat_template import ChatTemplate
from tests.support.tokenizer_layouts import CHATML, byte_level

ASK = {"role": "user", "content": "is it ?"}


def with_template(template: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="<|im_end|>")
    tokenizer.chat_template = template
    return tokenizer


def chat_of(tokenizer: Any, name: str = "the model", limit_s: float = 30.0) -> ChatTemplate:
    special = tokenizer.special_tokens_map
    return ChatTemplate(tokenizer.chat_template, special, name, limit_s=limit_s)


def test_a_template_that_takes_too_long_is_rejected_and_not_tried_again() -> None:
    slow = "{% for i in range(99999) %}{% for j in range(30) %}{% endfor %}{% endfor %}"
    chat = chat_of(with_template(slow + CHATML), limit_s=0.01)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"template of the model did not end within 0\.01 s"):
            chat.render([ASK], is_open=True)


def test_a_template_in_time_is_that_of_transformers() -> None:
    tokenizer = with_template(CHATML)
    expected = tokenizer.apply_chat_template([ASK], tokenize=False, add_generation_prompt=True)
    assert chat_of(tokenizer).render([ASK], is_open=True) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'with tools ' if tools is not none }}{{ 'on ' if documents is not none }}" + CHATML,
        "{{ 'with tools ' if tools is defined and tools is not none }}" + CHATML,
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{{ messages[0]['content'] }}{% else %}{% set loop_messages = messages %}{% endif %}"
        "{% for m in loop_messages %}{{ m.content | trim }}{{ eos_token }}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{{ ns.n }}{{ dict(a=m.content)['a'] }}{% endfor %}",
        "{% for m in messages %}{% if loop.last %}{{ m.content }}{% continue %}{% endif %}"
        "{{ m.content | tojson(indent=2) }}{% endfor %}{{ strftime_now('%%') }}",
        "{% for m in messages %}{{ m.name | default('unnamed') }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    ],
)
def test_what_templates_may_use_is_what_transformers_gives_them(template: str) -> None:
    tokenizer = with_template(template)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "  be kind\n"},
        ASK | {"name": "Ann"},
        {"role": "assistant", "content": "it is", "reasoning_content": "well"},
        ASK | {"content": 'and "this" ?'},
    ]
    chat = chat_of(tokenizer)
    for is_open in (True, False):
        expected = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=is_open
        )
        assert chat.render(messages, is_open=is_open) == expected


def test_a_message_of_tool_calls_alone_needs_no_content() -> None:
    template = "{% for m in messages %}{{ m.content if m.content is defined else m.tool_calls }}"
    tokenizer = with_template(template + "{% endfor %}")
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}
    assert "look" in chat_of(tokenizer).render([ASK, call], is_open=True)


GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}"
    "{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n"
    "{{ first if loop.first else '' }}{{ turn.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Turns as Gemma's template writes them: the system's words open the first turn of the user."""


def test_the_turns_of_gemma_are_rendered_whole_and_others_are_rejected() -> None:
    chat = chat_of(with_template(GEMMA), "gemma")
    system, ask = {"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi "}
    answer = {"role": "assistant", "content": "Hello"}
    assert chat.render([system, ask, answer, ask], is_open=True).endswith(
        "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello"
        "<end_of_turn>\n<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
    )
    with pytest.raises(ConfigError, match="roles must alternate"):
        chat.render([ask, ask], is_open=True)


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_tools_reach_the_template_as_transformers_passes_them() -> None:
    template = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}" + CHATML
    tokenizer = with_template(template)
    expected = tokenizer.apply_chat_template(
        [ASK], tools=[TOOL], tokenize=False, add_generation_prompt=True
    )
    chat = chat_of(tokenizer)
    assert chat.render([ASK], is_open=True, tools=[TOOL]) == expected
    assert chat.tool_source == template
    assert "look" not in chat.render([ASK], is_open=True)


def test_a_template_that_drops_a_tool_is_rejected() -> None:
    chat = chat_of(with_template(CHATML))
    with pytest.raises(ConfigError, match="the chat template of the model drops the tool 'look'"):
        chat.render([ASK], is_open=True, tools=[TOOL])


def test_of_several_templates_the_one_for_tools_is_read() -> None:
    assert chat_of(with_template(""), "m").tool_source == ""
    tokenizer = with_template(CHATML)
    tokenizer.chat_template = {"default": CHATML, "tool_use": "{{ tools }}" + CHATML}
    assert chat_of(tokenizer).tool_source.startswith("{{ tools }}")
