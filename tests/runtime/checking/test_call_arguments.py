"""Tool calls have arguments as objects, however they were written."""

from typing import Any

import pytest

from runtime.checking.call_arguments import with_arguments
from runtime.errors import InvalidValue


def test_the_arguments_of_earlier_calls_become_objects() -> None:
    def turn(arguments: object) -> dict[str, Any]:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    asked = {"role": "user", "content": "hi"}
    assert with_arguments([asked, turn('{"a": 1}')]) == [asked, turn({"a": 1})]
    assert with_arguments([turn({"a": 1}), "no message"]) == [turn({"a": 1}), "no message"]
    with pytest.raises(InvalidValue, match=r"messages\[1\] has a call with arguments \[1\]"):
        with_arguments([asked, turn("[1]")])
    with pytest.raises(InvalidValue, match=r"messages\[0\] has a call .* not JSON"):
        with_arguments([turn("{")])
