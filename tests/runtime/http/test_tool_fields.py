"""Definitions of tools and earlier calls are read as chat templates take them, or rejected."""

from typing import Any

import pytest

from runtime.errors import InvalidValue
from runtime.http.request_fields import RequestFields
from runtime.http.tool_fields import read_tools

FUNCTION = {"name": "look", "description": "Look", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


def test_tools_are_read_unless_none_is_to_be_called() -> None:
    assert read_tools(RequestFields({})) == ()
    assert read_tools(RequestFields({"tools": [TOOL]})) == (TOOL,)
    assert read_tools(RequestFields({"tools": [TOOL], "tool_choice": "auto"})) == (TOOL,)
    assert read_tools(RequestFields({"tools": [TOOL], "tool_choice": "none"})) == ()
    strict = {"type": "function", "function": FUNCTION | {"strict": False}}
    assert read_tools(RequestFields({"tools": [strict]})) == (TOOL,)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tools": "look"}, "tools is 'look'"),
        ({"tools": [TOOL] * 129}, "tools has 129 tools: 128 at most"),
        ({"tools": [{"type": "retrieval"}]}, r"tools\[0\] is .* it needs type and function"),
        ({"tools": [TOOL | {"type": "x"}]}, r"tools\[0\].type is 'x'"),
        ({"tools": [TOOL | {"function": 3}]}, r"tools\[0\].function is 3"),
        ({"tools": [TOOL | {"function": {}}]}, r"tools\[0\].function.name is None"),
        ({"tools": [TOOL | {"function": {"name": "a b"}}]}, "write letters, digits"),
        ({"tools": [TOOL | {"function": FUNCTION | {"strict": True}}]}, "strict is true"),
        ({"tools": [TOOL | {"function": FUNCTION | {"cache": 1}}]}, "function.cache is not"),
        ({"tools": [TOOL | {"function": FUNCTION | {"parameters": 3}}]}, "parameters is 3"),
        ({"tools": [TOOL], "tool_choice": "required"}, "`tool_choice` is 'required'"),
        ({"tools": [TOOL], "tool_choice": TOOL}, "calls are not constrained"),
    ],
)
def test_what_is_no_tool_is_rejected(body: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        read_tools(RequestFields(body))
