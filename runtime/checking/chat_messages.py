"""Check conversations, with the same rules for requests, prompt files and training records."""

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.checking.values import describe, items, text
from runtime.errors import InvalidValue

Message = dict[str, Any]
"""A turn as a chat template reads it: role and content, and the accepted extra keys."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
EXTRA_KEYS = ("name", "tool_calls", "tool_call_id", "reasoning_content")
"""Keys beside role and content that chat templates know."""
BESIDE_MESSAGES = ("system", "tools", "functions", "documents", "images", "chat_template")
"""Fields of a record that would change its prompt; the chat template receives none of them."""


def messages(
    value: object, field: str = "messages", *, extra_keys: tuple[str, ...] = EXTRA_KEYS
) -> tuple[Message, ...]:
    """Return a conversation whose contents are strings; a key that is None counts as absent.

    A content that is a list of text parts becomes their concatenation. Only a message with tool
    calls may lack its content, which then stays None.

    Args:
        value: a list of {"role", "content"}.
        field: names the value in an error.
        extra_keys: further keys that the caller accepts.

    Raises:
        InvalidValue: it is not a conversation, is empty, or has a key or a part that is not
            supported; names the message and the key.
    """
    found = tuple(
        _message(one, f"{field}[{number}]", extra_keys)
        for number, one in enumerate(items(value, field, "messages"))
    )
    if not found:
        raise InvalidValue(f"{field} is empty: give at least one message")
    if not any(message["content"] or message.get("tool_calls") for message in found):
        raise InvalidValue(f"{field} has no text: every content is empty")
    return found


def check_beside(record: Mapping[str, object], *, known: Sequence[str] = ()) -> None:
    """Raise if a record has a field beside its prompt that would be ignored.

    Args:
        record: the record.
        known: fields that the caller reads.

    Raises:
        InvalidValue: a field of `BESIDE_MESSAGES` is neither null nor empty; names it.
    """
    for key in BESIDE_MESSAGES:
        if record.get(key) and key not in known:
            raise InvalidValue(
                f"{key} is not supported in a record: write it into the messages, or remove it"
            )


def _message(value: object, field: str, extra_keys: tuple[str, ...]) -> Message:
    if not isinstance(value, Mapping):
        raise InvalidValue(
            f"{field} is {describe(value)}: a message is an object with role and content"
        )
    for key, held in value.items():
        if key not in ("role", "content", *extra_keys) and held is not None:
            raise InvalidValue(f"{field}.{key} is not supported here: {_remedy(extra_keys)}")
    role = text(_required(value, "role", field), f"{field}.role")
    if role not in ROLES:
        raise InvalidValue(f"{field}.role is {role!r}: write one of {', '.join(ROLES)}")
    message: Message = {"role": role, "content": _content(value, field)}
    for key in extra_keys:
        if value.get(key) is not None:
            message[key] = _extra(value[key], key, f"{field}.{key}")
    return message


def _extra(value: object, key: str, field: str) -> object:
    if key != "tool_calls":
        return text(value, field)
    calls = items(value, field, "tool calls")
    for number, call in enumerate(calls):
        if not isinstance(call, Mapping):
            raise InvalidValue(f"{field}[{number}] is {describe(call)}: it must be an object")
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidValue(f"{field}[{number}] has no function.name: add it")
    return calls


def _required(value: Mapping[Any, object], key: str, field: str) -> object:
    if key not in value:
        keys = ", ".join(map(str, value)) or "nothing"
        raise InvalidValue(f"{field} has no {key}: it has {keys}")
    return value[key]


def _content(value: Mapping[Any, object], field: str) -> str | None:
    if value.get("content") is None and value.get("tool_calls"):
        return None
    content = _required(value, "content", field)
    if content is None:
        raise InvalidValue(f'{field}.content is None: write a string, "" for an empty turn')
    if isinstance(content, list | tuple):
        parts = (_part(part, f"{field}.content[{i}]") for i, part in enumerate(content))
        return "".join(parts)
    return text(content, f"{field}.content")


def _part(value: object, field: str) -> str:
    if not isinstance(value, Mapping) or value.get("type") != "text":
        shown = value.get("type") if isinstance(value, Mapping) else value
        raise InvalidValue(
            f'{field} is of type {describe(shown)}: only {{"type": "text", "text": ...}} '
            "parts are supported"
        )
    extra = sorted(str(key) for key in value.keys() - {"type", "text"})
    if extra:
        raise InvalidValue(f"{field}.{extra[0]} is not supported here: remove it")
    return text(_required(value, "text", field), f"{field}.text")


def _remedy(extra_keys: tuple[str, ...]) -> str:
    known = ", ".join(("role", "content", *extra_keys))
    return f"remove it (a message has {known})"
