"""Fields of a record, read strictly: what is missing or of another type is rejected by name."""

from collections.abc import Mapping
from typing import Any

from runtime.checking.tool_definitions import tool_definitions
from runtime.checking.values import text
from runtime.errors import InvalidValue
from runtime.files.documents import DocumentError
from runtime.files.strict_json import parse_json


def field_of(record: Mapping[str, object], name: str) -> object:
    """Return a field; raise InvalidValue if the record lacks it."""
    if name not in record:
        raise missing_field(name, record)
    return record[name]


def string_of(record: Mapping[str, object], name: str) -> str:
    """Return a field that is a string; raise InvalidValue if it is not."""
    return text(field_of(record, name), name)


def filled_of(record: Mapping[str, object], name: str, why: str = "nothing to learn") -> str:
    """Return a field that is a string with a word in it; raise InvalidValue if it is not."""
    value = string_of(record, name)
    if not value.strip():
        raise InvalidValue(f"{name} is empty: there is {why}")
    return value


def tools_of(record: Mapping[str, object]) -> tuple[Mapping[str, Any], ...]:
    """Return the definitions of the tools of a conversation: a list, or JSON in a string.

    Raises:
        InvalidValue: one has another form; names it.
    """
    value = record.get("tools")
    if isinstance(value, str) and value:
        try:
            value = parse_json(value)
        except DocumentError as error:
            raise InvalidValue(f"tools is a string that is {error}") from error
    return tool_definitions(value) if value else ()


def missing_field(name: str, record: Mapping[str, object]) -> InvalidValue:
    """Return the error of a record without a field."""
    return InvalidValue(f"no field {name!r}; the record has {', '.join(record) or 'none'}")
