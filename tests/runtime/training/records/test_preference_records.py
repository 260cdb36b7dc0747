"""Records of preferences become answers after one prompt, or are rejected by a field's name."""

from collections.abc import Mapping

import pytest

from runtime.training.records.preference_records import (
    ChatPreference,
    TextPreference,
    preference_of,
)
from tests.support.rejection import rejected

ASK = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "What"}
CHAT = ChatPreference(chosen=(ASK, GOOD), rejected=(ASK, BAD))


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD], "score_chosen": 8.0},
        {"prompt": "Hi", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"prompt": None, "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    ],
)
def test_every_form_of_conversations_is_the_same_preference(record: Mapping[str, object]) -> None:
    assert preference_of(record) == CHAT


def test_texts_are_answers_after_their_prompt() -> None:
    record = {"prompt": "One and", "chosen": " two", "rejected": " nine"}
    wanted = TextPreference(prompt="One and", chosen=" two", rejected=" nine")
    assert preference_of(record) == wanted


TOOL_CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}


def test_an_answer_may_be_a_tool_call() -> None:
    found = preference_of({"prompt": [ASK], "chosen": [TOOL_CALL], "rejected": [BAD]})
    assert isinstance(found, ChatPreference)
    assert found.chosen[-1]["tool_calls"] == TOOL_CALL["tool_calls"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"chosen": "a"}, "no field 'rejected'; the record has chosen"),
        ({"chosen": "a", "rejected": "b"}, "no field 'prompt'; the record has chosen, rejected"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt is empty: there is nothing to a"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "x", "chosen": "a", "rejected": " "}, "rejected is empty"),
        ({"prompt": "x", "chosen": "a", "rejected": [BAD]}, "write both as strings or both as"),
        ({"prompt": [ASK], "chosen": "a", "rejected": "b"}, "prompt is a list of messages and"),
        ({"prompt": "x", "chosen": 1, "rejected": 2}, "chosen is 1.*: it must be a list"),
        ({"prompt": [ASK], "chosen": [ASK], "rejected": [BAD]}, "chosen must end with a turn of"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "chosen must end with .* after at least one other"),
        (
            {"chosen": [ASK, GOOD], "rejected": [ASK | {"content": "Ho"}, BAD]},
            "chosen and rejected differ before their last turn",
        ),
        (
            {"prompt": "Ho", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
            "prompt is no turn of the user in chosen: remove prompt",
        ),
        (
            {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD | {"content": ""}]},
            "rejected has no text: every content is empty",
        ),
        (
            {"chosen": [ASK, GOOD], "rejected": [ASK, BAD | {"content": ""}]},
            "the last turn of rejected is empty",
        ),
        ({"chosen": [ASK, GOOD | {"x": 1}], "rejected": [ASK, BAD]}, r"chosen\[1\].x is not supp"),
    ],
)
def test_what_is_no_preference_is_rejected(record: Mapping[str, object], message: str) -> None:
    with rejected(message):
        preference_of(record)
