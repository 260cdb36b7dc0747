from typing import Any

import pytest

from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.checking.constraint_fields import MAX_CHOICES, MAX_TEXT, constraint_of
from runtime.checking.sampling_fields import Sampling
from runtime.errors import InvalidValue


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"choice": ()}, None),
        ({"json_object": True}, ConstraintSpec(kind=ConstraintKind.JSON_OBJECT)),
        ({"regex": "a+"}, ConstraintSpec(kind=ConstraintKind.REGEX, text="a+")),
        ({"grammar": "start: x"}, ConstraintSpec(kind=ConstraintKind.GRAMMAR, text="start: x")),
        (
            {"choice": ["yes", "no"]},
            ConstraintSpec(kind=ConstraintKind.CHOICE, choices=("yes", "no")),
        ),
        (
            {"json_schema": ' {"type": "array"}'},
            ConstraintSpec(kind=ConstraintKind.JSON_SCHEMA, text=' {"type": "array"}'),
        ),
        (
            {"json_schema": {"type": "array"}},
            ConstraintSpec(kind=ConstraintKind.JSON_SCHEMA, text='{"type": "array"}'),
        ),
        ({"json_schema": True}, ConstraintSpec(kind=ConstraintKind.JSON_SCHEMA, text="true")),
        (
            {"json_object": True, "close": True},
            ConstraintSpec(kind=ConstraintKind.JSON_OBJECT, close=True),
        ),
        (
            {"regex": "a", "align": True, "temperature": 1.0},
            ConstraintSpec(kind=ConstraintKind.REGEX, text="a", align=True),
        ),
    ],
)
def test_each_field_states_its_kind(
    fields: dict[str, Any], expected: ConstraintSpec | None
) -> None:
    stated = {name: value for name, value in fields.items() if name != "temperature"}
    assert constraint_of(**stated) == expected
    assert Sampling(**fields).checked().params(seed=1).constraint == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"regex": "a", "choice": ["b"]}, "`regex` and `choice` are given"),
        ({"json_object": True, "json_schema": True}, "`json_schema` and `json_object` are given"),
        ({"regex": " "}, "`regex` is empty"),
        ({"grammar": 3}, "`grammar` is 3"),
        ({"grammar": "x" * (MAX_TEXT + 1)}, "`grammar` has 65537 characters: 65536 at most"),
        ({"choice": ["a", ""]}, r"`choice`\[1\] is empty"),
        ({"choice": ["a" * 40000, "b" * 40000]}, "`choice` has 80000 characters"),
        ({"choice": ["a"] * (MAX_CHOICES + 1)}, "`choice` has 1025 texts"),
        ({"json_schema": "{"}, "`json_schema` is not JSON"),
        ({"json_schema": '{"a": 1, "a": 2}'}, "'a'"),
        ({"json_schema": 3}, "`json_schema` is 3: give a schema"),
        ({"json_schema": {"x": {1, 2}}}, "`json_schema` is no JSON"),
        ({"json_object": "yes"}, "`json_object` is 'yes'"),
        ({"regex": "a", "ignore_eos": True}, "`ignore_eos` continues after the end"),
        ({"align": True, "temperature": 1.0}, "`align` is about constrained samples"),
        ({"regex": "a", "align": True}, "`align` is about samples: set `temperature`"),
        ({"regex": "a", "align": 1}, "`align` is 1"),
        ({"close": True}, "`close` completes a constrained output"),
        ({"regex": "a", "close": "yes"}, "`close` is 'yes'"),
        (
            {"regex": "a", "align": True, "temperature": 1.0, "top_p": 0.5},
            "`align` follows the model's own distribution, which `top_p` changes",
        ),
    ],
)
def test_what_states_no_constraint_is_rejected(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        Sampling(**fields).checked()
