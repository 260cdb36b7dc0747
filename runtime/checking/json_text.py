"""Read JSON and .jsonl files that users and other programs wrote.

Each fault is one ConfigError that names the file and, in a .jsonl file, the line.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class JsonLine:
    """One object of a .jsonl file."""

    where: str
    """Names the file and the line in an error."""
    fields: dict[str, Any]


def read_json_lines(path: Path, *, kind: str = "file") -> Iterator[JsonLine]:
    """Yield the objects of a .jsonl file, skipping blank lines.

    Args:
        path: UTF-8, with or without a byte order mark.
        kind: what the file is to the user, such as "prompt file".

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    # Not splitlines: JSON strings may hold U+2028 and other characters that it splits at.
    for number, line in enumerate(read_text(path, kind=kind).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield JsonLine(where, parse_object(line, where))


def read_json_object(path: Path, *, kind: str = "file") -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        ConfigError: the file cannot be read or does not hold a JSON object.
    """
    return parse_object(read_text(path, kind=kind), str(path))


def read_text(path: Path, *, kind: str = "file") -> str:
    """Return the text of a UTF-8 file, without its byte order mark.

    Raises:
        ConfigError: the file is missing, is a directory, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{kind} {path} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{kind} {path} is a directory: name a file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{kind} {path} is not UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"{kind} {path} cannot be read: {error}") from error


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Return the object that a JSON text holds; errors as for `parse_json`."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{where}: {kind}, expected a JSON object in braces")
    return value


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text.

    Args:
        text: JSON; NaN and Infinity are read as Python and Hugging Face write them.
        where: names the text in an error, such as "FILE, line 3".

    Raises:
        ConfigError: the text is not JSON, nests too deeply, repeats a key, or holds a number of
            thousands of digits or half a surrogate pair.
    """
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, where))
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ConfigError(
            f"{where}: not JSON ({error.msg} at {line}column {error.colno})"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{where}: the JSON nests too deeply to be read") from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ConfigError(
            f"{where}: a string holds half a surrogate pair ({half}), which is not a character"
        ) from error
    except ValueError as error:  # more digits than Python converts
        raise ConfigError(f"{where}: a number has too many digits to be read") from error
    return value


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ConfigError(f"{where}: the key {twice!r} occurs twice in one object: keep one")
    return found
