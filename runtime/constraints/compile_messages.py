"""Turn a compiler's message into one that names the place in what the user wrote."""

import json
import re
from collections.abc import Iterator

from parallel.decoding.types import ConstraintKind, ConstraintSpec

_LINE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")
_OF_SCHEMA = re.compile(r"^at 1\(\d+\): failed to compile JSON schema: ")
_REGEX_ERROR = re.compile(r"regex parse error:\n(.*)\n +\^.*\nerror: (.*)", re.DOTALL)
_CARET = re.compile(r"\n( +)\^")
_KEYS = re.compile(r'^Unimplemented keys: \[(".*?")[,\]]')
_ONE_OF = "oneOf constraints are not supported"
_VALUES = (
    (re.compile(r"^Invalid type: (\S+)"), "type"),
    (re.compile(r"^Unknown format: (\S+)"), "format"),
    (re.compile(r"^Pointer '([^']*)' does not exist"), "$ref"),
    (re.compile(r"^Resource '([^']*)'"), "$ref"),
    (re.compile(r"^regex parse error:\n +(.+)\n"), "pattern"),
)
"""Messages that quote a value, and the keyword that holds it."""
_LONGEST = 300
_Place = tuple[str | int, ...]


def with_place(spec: ConstraintSpec, message: str) -> str:
    """Return what is wrong with a constraint, with the place in it where that is known."""
    match spec.kind:
        case ConstraintKind.JSON_SCHEMA:
            return _of_schema(spec.text, _OF_SCHEMA.sub("", message))
        case ConstraintKind.REGEX if (error := _REGEX_ERROR.search(message)) is not None:
            return f"{error[2].splitlines()[0]}{_column(message)}"
        case ConstraintKind.GRAMMAR:
            return _shortened(_LINE.sub(r"line \1, column \2: ", message))
    return _shortened(_LINE.sub("", message))


def _of_schema(schema: str, message: str) -> str:
    text = _shortened(message)
    if message.startswith(_ONE_OF):
        text = "oneOf is not supported: write anyOf if the alternatives exclude each other"
        return _at(schema, "oneOf", None, text)
    keys = _KEYS.search(message)
    if keys is not None:
        keyword = keys[1].strip('"')
        return _at(schema, keyword, None, f"the keyword {keyword} is not supported")
    for pattern, keyword in _VALUES:
        match = pattern.search(message)
        if match is not None:
            error = _REGEX_ERROR.search(message)
            if error is not None:
                text = f"{error[2].splitlines()[0]}{_column(message)}"
            return _at(schema, keyword, match[1], text)
    return text


def _column(message: str) -> str:
    caret = _CARET.search(message)
    return "" if caret is None else f", at character {len(caret[1]) - 4}"


def _shortened(message: str) -> str:
    line = message.strip().partition("\n")[0]
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _at(schema: str, keyword: str, value: str | None, message: str) -> str:
    """Return the message after the first place with this keyword, and a value that ends so."""
    for place, found in _members(json.JSONDecoder().decode(schema)):
        is_it = value is None or (isinstance(found, str) and found.endswith(value))
        if place[-1] == keyword and is_it:
            pointer = "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in place)
            return f"#/{pointer}: {message}"
    return message


def _members(root: object) -> Iterator[tuple[_Place, object]]:
    """Yield all members of a document's objects with their places, outermost first."""
    waiting: list[tuple[_Place, object]] = [((), root)]
    for place, value in waiting:  # grows while it is read
        if place and isinstance(place[-1], str):
            yield place, value
        if isinstance(value, dict):
            waiting += [((*place, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*place, index), inner) for index, inner in enumerate(value)]
