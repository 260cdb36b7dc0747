"""The fields of a chat that are about tools: definitions, the choice, and earlier calls."""

from collections.abc import Mapping
from typing import Any

from runtime.checking.tool_definitions import tool_definitions
from runtime.checking.values import describe
from runtime.errors import InvalidValue
from runtime.http.request_fields import RequestFields


def read_tools(fields: RequestFields) -> tuple[Mapping[str, Any], ...]:
    """Return the definitions of the tools that the assistant may call.

    Raises:
        InvalidValue: a definition has another form, or the choice constrains the answer.
    """
    given, choice = fields.take("tools"), fields.take("tool_choice")
    tools = () if given is None else tool_definitions(given)
    if choice is None or choice == "auto":
        return tools
    if choice == "none":
        return ()
    raise InvalidValue(
        f"`tool_choice` is {describe(choice)}: calls are not constrained, choose auto or none"
    )
