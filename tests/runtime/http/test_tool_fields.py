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
        ({"tools": [{"type": "retrieval"}]}, r"tools\[0\] is .* it needs type and function"),
        ({"tools": [TOOL], "tool_choice": "required"}, "`tool_choice` is 'required'"),
        ({"tools": [TOOL], "tool_choice": TOOL}, "calls are not constrained"),
    ],
)
def test_what_is_no_tool_is_rejected(body: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        read_tools(RequestFields(body))
