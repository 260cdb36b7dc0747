"""Definitions of tools are read as chat templates take them, or rejected."""

import pytest

from runtime.checking.tool_definitions import tool_definitions
from tests.support.rejection import rejected

FUNCTION = {"name": "look", "description": "Look", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


def test_tools_are_read_without_what_templates_do_not_know() -> None:
    assert tool_definitions([]) == ()
    assert tool_definitions([TOOL]) == (TOOL,)
    assert tool_definitions([TOOL | {"function": FUNCTION | {"strict": False}}]) == (TOOL,)
    bare = {"name": "look", "parameters": None}
    assert tool_definitions([TOOL | {"function": bare}])[0]["function"] == {"name": "look"}


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("look", "tools is 'look'"),
        ([TOOL] * 129, "tools has 129 tools: 128 at most"),
        ([{"type": "retrieval"}], r"tools\[0\] is .* it needs type and function"),
        ([TOOL, TOOL | {"type": "x"}], r"tools\[1\].type is 'x'"),
        ([TOOL | {"function": 3}], r"tools\[0\].function is 3"),
        ([TOOL | {"function": {}}], r"tools\[0\].function.name is None"),
        ([TOOL | {"function": {"name": "a b"}}], "write letters, digits"),
        ([TOOL | {"function": FUNCTION | {"strict": True}}], "strict is true"),
        ([TOOL | {"function": FUNCTION | {"cache": 1}}], "function.cache is not"),
        ([TOOL | {"function": FUNCTION | {"parameters": 3}}], "parameters is 3"),
    ],
)
def test_what_is_no_tool_is_rejected(tools: object, message: str) -> None:
    with rejected(message):
        tool_definitions(tools)
