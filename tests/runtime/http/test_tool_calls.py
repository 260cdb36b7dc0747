"""Calls of tools in an answer, however its text is cut; what is no call stays text."""

import json
import random

import pytest

from runtime.errors import ConfigError
from runtime.http.tool_calls import ToolCall, ToolCallReader, ToolForm, tool_form

LOOK = '<tool_call>\n{"name": "look", "arguments": {"city": "Paris \\u00e9"}}\n</tool_call>'
FIND = '<tool_call>{"name": "find", "arguments": {}}</tool_call>'
CALLS = [ToolCall("look", '{"city": "Paris é"}'), ToolCall("find", "{}")]


def read(form: ToolForm | None, text: str, seed: int) -> tuple[str, list[ToolCall]]:
    """Return the text and the calls of an answer that arrives in pieces of random length."""
    chooser, reader, pieces = random.Random(seed), ToolCallReader(form), list[str | ToolCall]()
    while text:
        size = chooser.randrange(1, 9)
        pieces += reader.push(text[:size])
        text = text[size:]
    pieces += reader.finish()
    assert "" not in pieces
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return "".join(texts), [piece for piece in pieces if isinstance(piece, ToolCall)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("Just text < and <tool", "Just text < and <tool", []),
        (LOOK, "", CALLS[:1]),
        (f"Let me see.\n{LOOK}\n{FIND}\n", "Let me see.", CALLS),
        (f"{FIND} and then", " and then", CALLS[1:]),
        (LOOK.removesuffix("\n</tool_call>"), "", CALLS[:1]),  # ended by the end token
        ("a <tool_call>no JSON</tool_call> b", "a <tool_call>no JSON</tool_call> b", []),
        (
            ' <tool_call>{"name": 3, "arguments": {}}',
            ' <tool_call>{"name": 3, "arguments": {}}',
            [],
        ),
        ("spaces at the end \n ", "spaces at the end \n ", []),
    ],
)
def test_calls_in_hermes_form_are_found(
    text: str, shown: str, calls: list[ToolCall], seed: int
) -> None:
    assert read(ToolForm.HERMES, text, seed) == (shown, calls)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ('\n{"name": "find", "parameters": {}}', "", CALLS[1:]),
        ("It is {so}", "It is {so}", []),
        ('{"answer": 3}', '{"answer": 3}', []),
        (" \n", " \n", []),
    ],
)
def test_an_answer_that_is_a_call_in_llamas_form_is_found(
    text: str, shown: str, calls: list[ToolCall], seed: int
) -> None:
    assert read(ToolForm.LLAMA, text, seed) == (shown, calls)


def test_text_streams_at_once_where_no_call_can_begin() -> None:
    reader = ToolCallReader(ToolForm.HERMES)
    assert reader.push("The answer") == ["The answer"]
    assert reader.push(" <tool") == []
    assert reader.push("box>") == [" <toolbox>"]
    assert ToolCallReader(None).push(LOOK) == [LOOK]


def test_arguments_are_json() -> None:
    _, (call, *_) = read(ToolForm.HERMES, LOOK, 0)
    assert json.loads(call.arguments) == {"city": "Paris é"}


def test_a_template_without_a_known_form_is_rejected() -> None:
    assert tool_form("{{ '<tool_call></tool_call>' }}", "toy") is ToolForm.HERMES
    llama = '{"name": function name, "parameters": dictionary of argument name and its value}'
    assert tool_form(llama, "toy") is ToolForm.LLAMA
    for template in ("", "{{ messages }}", "<tool_call><function=f></function></tool_call>"):
        with pytest.raises(ConfigError, match="template of toy defines no calls in the form of"):
            tool_form(template, "toy")
