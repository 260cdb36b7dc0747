from typing import Any

import pytest

from runtime.errors import InvalidValue
from runtime.http.constraint_bodies import read_constraint
from runtime.http.openai_requests import read_chat, read_completion
from runtime.http.request_fields import RequestFields

SCHEMA = {"type": "array"}


def format_of(**fields: object) -> dict[str, Any]:
    return {"response_format": fields}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {}),
        (format_of(type="text"), {}),
        (format_of(type="json_object"), {"json_object": True}),
        (
            format_of(
                type="json_schema", json_schema={"name": "x", "strict": True, "schema": SCHEMA}
            ),
            {"json_schema": SCHEMA},
        ),
        ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
        ({"guided_json": '{"type": "array"}'}, {"json_schema": '{"type": "array"}'}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_grammar": "start: x"}, {"grammar": "start: x"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_regex": None, "guided_choice": ["a"]}, {"choice": ["a"]}),
    ],
)
def test_openais_and_vllms_fields_are_read(body: dict[str, Any], fields: dict[str, Any]) -> None:
    given = RequestFields(body)
    assert read_constraint(given).fields == fields
    given.reject_rest()
    constraint = read_completion({"prompt": "hi"} | body).generation.sampling.constraint
    assert (constraint is not None) == bool(fields)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"response_format": "json"}, "`response_format` is 'json'"),
        (format_of(type="yaml"), "`response_format.type` is 'yaml'"),
        (format_of(type="json_schema"), "json_schema needs a key json_schema"),
        (format_of(type="json_object", schema=SCHEMA), "text and json_object need none"),
        (format_of(type="json_schema", json_schema={"name": "x"}), "an object with a schema"),
        (
            format_of(type="json_schema", json_schema={"schema": SCHEMA, "lenient": True}),
            "has the key 'lenient'",
        ),
        ({"guided_choice": "ab"}, "`guided_choice` is 'ab'"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "`guided_regex` and `guided_choice`"),
        ({"guided_regex": "a", "ignore_eos": True}, "`ignore_eos`"),
    ],
)
def test_another_form_is_rejected(body: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        read_completion({"prompt": "hi"} | body)


def test_answers_are_aligned_or_closed_where_the_body_says_so() -> None:
    body = {"prompt": "hi", "guided_regex": "a", "align": True}
    constraint = read_completion(body).generation.sampling.constraint
    assert constraint is not None
    assert constraint.align
    with pytest.raises(InvalidValue, match="`align` is about constrained samples"):
        read_completion({"prompt": "hi", "align": True})
    body = {"messages": [{"role": "user", "content": "hi"}], "guided_regex": "a", "close": True}
    constraint = read_chat(body).generation.sampling.constraint
    assert constraint is not None
    assert constraint.close


def test_tools_and_a_constraint_exclude_each_other() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"messages": [{"role": "user", "content": "hi"}], "guided_regex": "a"}
    assert read_chat(body).generation.sampling.regex == "a"
    with pytest.raises(InvalidValue, match="`tools` are given and the answer is constrained"):
        read_chat(body | {"tools": [tool]})
