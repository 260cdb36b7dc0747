"""Conversations in ShareGPT's form, `conversations` of {"from", "value"}, as messages."""

from collections.abc import Mapping
from typing import Any

from runtime.checking.values import describe, items
from runtime.errors import InvalidValue

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}


def messages_of(conversation: object) -> list[Mapping[str, Any]]:
    """Return a conversation's turns as messages; turns that are messages already stay.

    Raises:
        InvalidValue: a turn has another form; names it.
    """
    turns = items(conversation, "conversations", "turns")
    return [_message(turn, f"conversations[{number}]") for number, turn in enumerate(turns)]


def _message(turn: object, field: str) -> Mapping[str, Any]:
    if isinstance(turn, Mapping) and "role" in turn:
        return turn
    if not isinstance(turn, Mapping) or not {"from", "value"} <= turn.keys():
        raise InvalidValue(
            f'{field} is {describe(turn)}: a turn is an object with "from" and "value"'
        )
    for key, held in turn.items():
        if key not in ("from", "value") and held is not None:
            raise InvalidValue(f"{field}.{key} is not supported here: remove it")
    role = _ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
    if role is None:
        hint = ""
        if turn["from"] == "function_call":
            hint = ", or write the call as `messages` with tool_calls"
        raise InvalidValue(
            f"{field}.from is {describe(turn['from'])}: write one of {', '.join(_ROLES)}{hint}"
        )
    if not isinstance(turn["value"], str):
        raise InvalidValue(f"{field}.value is {describe(turn['value'])}: it must be a string")
    return {"role": role, "content": turn["value"]}
