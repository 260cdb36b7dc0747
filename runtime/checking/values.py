"""Check single values: whole numbers, numbers, flags and texts of any library's types.

A value is accepted as it is or rejected by the name of its field; nothing is rounded.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from runtime.errors import InvalidValue

_SHOWN = 60
_NO_LIST = (str, bytes, bytearray, memoryview, Mapping, set, frozenset)


def whole_number(
    value: object, field: str, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """Return an integer of any library's type as an int.

    Args:
        value: an int, a numpy integer, or a tensor without dimensions; bools and floats are not.
        field: names the value in an error.
        minimum: smallest accepted value; None has no limit.
        maximum: largest accepted value; None has no limit.

    Raises:
        InvalidValue: it is not an integer, or is out of range.
    """
    if type(value) is int:
        number = value
    else:
        plain = _plain(value)
        if not hasattr(plain, "__index__") or isinstance(plain, bool):
            raise InvalidValue(f"{field} is {describe(value)}: it must be an integer")
        number = int(plain)
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise InvalidValue(f"{field} is {describe(number)}: it must be {_range(minimum, maximum)}")
    return number


def number(
    value: object, field: str, *, minimum: float | None = None, maximum: float | None = None
) -> float:
    """Return a finite number of any library's type as a float; see `whole_number`.

    Raises:
        InvalidValue: it is not a finite number, or is out of range.
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not (hasattr(plain, "__float__") or hasattr(plain, "__index__")):
        raise InvalidValue(f"{field} is {describe(value)}: it must be a number")
    try:
        found = float(plain)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise InvalidValue(f"{field} is {describe(value)}: it must be a finite number")
    if (minimum is not None and found < minimum) or (maximum is not None and found > maximum):
        raise InvalidValue(f"{field} is {describe(value)}: it must be {_range(minimum, maximum)}")
    return found


def flag(value: object, field: str) -> bool:
    """Return a bool of any library's type.

    Raises:
        InvalidValue: it is neither True nor False.
    """
    plain = _plain(value)
    if not isinstance(plain, bool):
        raise InvalidValue(f"{field} is {describe(value)}: it must be True or False")
    return plain


def text(value: object, field: str) -> str:
    """Return a string that UTF-8 can encode.

    Raises:
        InvalidValue: it is not a string, or holds half a surrogate pair.
    """
    if not isinstance(value, str):
        raise InvalidValue(f"{field} is {describe(value)}: it must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidValue(
                f"{field} holds half a surrogate pair at character {error.start} "
                f"({value[error.start]!a}), which is not a character: remove it"
            ) from error
    return str(value)


def texts(value: object, field: str) -> tuple[str, ...]:
    """Return strings; a single string is one of them, not its characters.

    Raises:
        InvalidValue: it is neither a string nor a list of strings; names the position.
    """
    if isinstance(value, str):
        return (text(value, field),)
    return tuple(text(one, f"{field}[{i}]") for i, one in enumerate(items(value, field, "strings")))


def items(value: object, field: str, kind: str) -> list[Any]:
    """Return the items of a list, a tuple, an array, a tensor or another ordered iterable.

    Raises:
        InvalidValue: it has no items in an order, or is a text, bytes or a mapping.
    """
    plain = _plain(value)
    if isinstance(plain, list | tuple):
        return list(plain)
    if isinstance(plain, _NO_LIST) or not isinstance(plain, Iterable):
        raise InvalidValue(f"{field} is {describe(value)}: it must be a list of {kind}")
    return list(plain)


def describe(value: object) -> str:
    """Return a value as an error shows it: short, on one line, with its type."""
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"{'-' if value < 0 else ''}2**{value.bit_length() - 1} or more"
    try:
        shown = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # thousands of digits, or thousands of brackets
        return f"a {kind}"
    if len(shown) > _SHOWN:
        shown = shown[: _SHOWN - 3] + "..."
    return shown if type(value) in (int, bool) else f"{shown} ({kind})"


def _plain(value: object) -> Any:
    """Return the Python value of a numpy scalar, an array or a tensor; other values unchanged."""
    as_list = getattr(value, "tolist", None)
    return value if as_list is None or isinstance(value, type | memoryview) else as_list()


def _range(minimum: float | None, maximum: float | None) -> str:
    if maximum is None:
        return f"at least {minimum}"
    return f"at most {maximum}" if minimum is None else f"between {minimum} and {maximum}"
