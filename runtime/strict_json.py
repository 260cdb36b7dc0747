"""JSON in which nothing is lost: duplicate keys and numbers without a finite value are refused.

Python's own reader keeps the last of two equal keys, accepts NaN, turns 1e999 into infinity, and
answers deep nesting and very long integers with exceptions of other kinds.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, or holds a key twice or a number without a finite value.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON: {error.msg} at {line}column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def read_json_object(file: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        ConfigError: the file cannot be read, or holds something else; names the file.
    """
    try:
        found = parse_json(read_text(file))
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: expected a JSON object, found a {type(found).__name__}")
    return found


def read_json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON-lines file with their line numbers; blank lines are skipped.

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    # Not splitlines: JSON strings may hold U+2028 and other characters it splits at.
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise ConfigError(f"{file}, line {number}: {error}") from error
        if not isinstance(found, dict):
            kind = type(found).__name__
            raise ConfigError(f"{file}, line {number}: expected a JSON object, found a {kind}")
        yield number, found


def read_text(file: Path) -> str:
    """Return a UTF-8 file's text without a byte order mark.

    Raises:
        ConfigError: the file cannot be read or is not UTF-8; names the file.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 (byte {error.start}): save it in that encoding"
        ) from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object: remove one")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"a number has {len(text)} digits: too many") from error
