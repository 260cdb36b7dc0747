"""Read the arguments of tool calls, as OpenAI's clients and data sets write them."""

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.checking.values import describe
from runtime.errors import InvalidValue
from runtime.files.documents import DocumentError
from runtime.files.strict_json import parse_json


def with_arguments(messages: Sequence[Any]) -> list[Any]:
    """Return messages whose calls have arguments as objects, as chat templates read them.

    OpenAI's clients send them as JSON in a string.

    Raises:
        InvalidValue: the arguments of a call are not a JSON object.
    """
    return [
        {**message, "tool_calls": [_parsed(call, f"messages[{n}]") for call in calls]}
        if isinstance(message, Mapping) and isinstance(calls := message.get("tool_calls"), list)
        else message
        for n, message in enumerate(messages)
    ]


def _parsed(call: Any, field: str) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(arguments, str):
        return call
    try:
        value = parse_json(arguments)
    except DocumentError as error:
        raise InvalidValue(f"{field} has a call with arguments that are {error}") from error
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{field} has a call with arguments {describe(value)}: give an object")
    return {**call, "function": {**function, "arguments": value}}
