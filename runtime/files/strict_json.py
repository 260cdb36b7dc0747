"""A strict JSON reader, which rejects duplicate keys and numbers without a finite value.

Python's own reader keeps the last of two equal keys, accepts NaN, turns 1e999 into infinity, and
raises other exceptions for deep nesting and very long integers.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import PacelineError
from runtime.files.documents import MAX_DIGITS, DocumentError, check_depth, read_text, too_deep

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, where: str = "", *, finite: bool = True) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the JSON.
        where: names the text in an error, such as "FILE, line 3".
        finite: reject NaN and infinity, which Python writes for measurements without a value.

    Raises:
        DocumentError: the text is not JSON, nests too deeply, or holds a key twice, a number
            without a finite value, an integer of more than 40 digits or half a surrogate pair.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant if finite else None,
            parse_float=_finite if finite else None,
            parse_int=_integer,
        )
        check_depth(value, where)
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        message = error.msg.removesuffix(" at")
        raise DocumentError(f"not JSON: {message} at {line}column {error.colno}", where) from error
    except RecursionError as error:
        raise too_deep(where) from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise DocumentError(
            f"a string holds half a surrogate pair ({half}), which is not a character", where
        ) from error
    except _Rejected as error:
        raise DocumentError(str(error), where) from error
    return value


def parse_object(text: str, where: str, *, finite: bool = True) -> dict[str, Any]:
    """Return the object of a JSON text; raises as `parse_json` does."""
    value = parse_json(text, where, finite=finite)
    if not isinstance(value, dict):
        raise DocumentError(f"expected a JSON object, found a {type(value).__name__}", where)
    return value


def read_json(file: Path, *, finite: bool = True) -> Any:
    """Return the value of a JSON file.

    Raises:
        ConfigError: the file cannot be read, or `parse_json` rejects it; names the file.
    """
    return parse_json(read_text(file), str(file), finite=finite)


def read_json_object(file: Path, *, finite: bool = True) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        ConfigError: the file cannot be read, or holds something else; names the file.
    """
    return parse_object(read_text(file), str(file), finite=finite)


def read_json_lines(
    file: Path, *, kind: str = "file", finite: bool = True
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON-lines file with their line numbers; blank lines are skipped.

    Args:
        file: UTF-8, with or without a byte order mark.
        kind: what the file is to the user, such as "prompt file".
        finite: as for `parse_json`.

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    # Not splitlines: JSON strings may hold U+2028 and other characters it splits at.
    for number, line in enumerate(read_text(file, kind=kind).split("\n"), start=1):
        if line.strip():
            yield number, parse_object(line, f"{file}, line {number}", finite=finite)


class _Rejected(PacelineError):
    """JSON that Python's reader accepts and this one rejects."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise _Rejected(f"the key {twice!r} occurs twice in one object: remove one")
    return found


def _no_constant(name: str) -> None:
    raise _Rejected(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Rejected(f"the number {text:.20} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Rejected(f"a number has {len(text)} digits: at most {MAX_DIGITS} are read")
    return int(text)
