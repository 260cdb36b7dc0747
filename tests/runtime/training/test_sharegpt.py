"""Conversations in ShareGPT's form become messages, or are rejected by name."""

import pytest

from runtime.training.sharegpt import messages_of
from tests.support.rejection import rejected


def test_turns_become_messages() -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "observation", "value": "7", "weight": None},
        {"role": "assistant", "content": "Seven"},
    ]
    assert messages_of(turns) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "Seven"},
    ]


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ("Hi", r"conversations\[0\] is 'Hi' .*: a turn is an object"),
        ({"from": "human"}, r"conversations\[0\] is .*: a turn is an object"),
        (
            {"from": "moon", "value": "x"},
            r"conversations\[0\].from is 'moon' .*: write one of system",
        ),
        ({"from": ["gpt"], "value": "x"}, r"conversations\[0\].from is \['gpt'\]"),
        ({"from": "function_call", "value": "{}"}, "write the call as messages with tool_calls"),
        ({"from": "gpt", "value": 3}, r"conversations\[0\].value is 3.*: it must be a string"),
        ({"from": "gpt", "value": "x", "weight": 0}, r"conversations\[0\].weight is not supported"),
    ],
)
def test_a_turn_of_another_form_is_rejected(turn: object, words: str) -> None:
    with rejected(words):
        messages_of([turn])


def test_what_is_no_list_is_rejected() -> None:
    with rejected("conversations is 'Hi' .str.: it must be a list of turns"):
        messages_of("Hi")
