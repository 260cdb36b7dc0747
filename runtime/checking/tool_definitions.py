"""Definitions of functions that an assistant may call, the same in requests and records."""

import re
from collections.abc import Mapping
from typing import Any

from runtime.checking.values import describe, items, text
from runtime.errors import InvalidValue

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FUNCTION_KEYS = ("name", "description", "parameters", "strict")


def tool_definitions(value: object) -> tuple[Mapping[str, Any], ...]:
    """Return definitions of tools as chat templates read them, in OpenAI's form.

    Raises:
        InvalidValue: one has another form; names it.
    """
    tools = items(value, "tools", "tools")
    if len(tools) > MAX_TOOLS:
        raise InvalidValue(f"tools has {len(tools)} tools: {MAX_TOOLS} at most")
    return tuple(_definition(tool, f"tools[{n}]") for n, tool in enumerate(tools))


def _definition(tool: object, field: str) -> Mapping[str, Any]:
    if not isinstance(tool, Mapping) or tool.keys() != {"type", "function"}:
        raise InvalidValue(f"{field} is {describe(tool)}: it needs type and function")
    if tool["type"] != "function":
        raise InvalidValue(f"{field}.type is {describe(tool['type'])}: it must be function")
    function = tool["function"]
    if not isinstance(function, Mapping):
        raise InvalidValue(f"{field}.function is {describe(function)}: it must be an object")
    for key, held in function.items():
        if key not in _FUNCTION_KEYS:
            raise InvalidValue(f"{field}.function.{key} is not supported: remove it")
        if key == "strict" and held:
            raise InvalidValue(f"{field}.function.strict is true: calls are not constrained")
        if key == "parameters" and not isinstance(held, Mapping | None):
            raise InvalidValue(f"{field}.function.parameters is {describe(held)}: give an object")
    name = text(function.get("name"), f"{field}.function.name")
    if not _NAME.fullmatch(name):
        raise InvalidValue(f"{field}.function.name is {name!r}: write letters, digits, _ . or -")
    known = {key: held for key, held in function.items() if held is not None and key != "strict"}
    return {"type": "function", "function": known}
