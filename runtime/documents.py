"""Reads text, JSON, TOML and msgpack that come from outside; whatever is wrong is one clear error.

The libraries raise more than they document: `RecursionError` for what nests deeply, a bare
`ValueError` for a number of 5,000 digits. And reading a named pipe blocks until another process
writes to it.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from runtime.errors import ConfigError

MAX_DEPTH = 100
"""Lists and objects inside one another; no format that is read here has ten."""
MAX_FILE_BYTES = 1 << 30
_MAX_DIGITS = 40
"""Hugging Face writes "no limit" as an integer of 31 digits."""
_BOM = "\ufeff"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_Found = TypeVar("_Found")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class DocumentError(ValueError):
    """Text or bytes are no document of their format; says why, and where if that is known."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; a byte order mark before it is skipped.

    Raises:
        DocumentError: it is not JSON, nests too deeply, or holds an integer of more than 40 digits
            or a string with half a surrogate pair.
    """
    try:
        found = json.loads(text.removeprefix(_BOM), parse_int=_integer)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise DocumentError(f"not JSON ({error.msg} at {line}column {error.colno})") from error
    except RecursionError as error:
        raise DocumentError(_TOO_DEEP) from error
    _check_values(found, strings=_ESCAPED_HALF.search(text) is not None)
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text; a byte order mark before it is skipped.

    Raises:
        DocumentError: it is not TOML, nests too deeply, or holds an integer of more than 40 digits.
    """
    try:
        found = tomllib.loads(text.removeprefix(_BOM))
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"not TOML ({error})") from error
    except ValueError as error:  # of int(), which counts the digits
        raise DocumentError(_TOO_LONG) from error
    except RecursionError as error:
        raise DocumentError(_TOO_DEEP) from error
    _check_values(found)
    return found


def parse_msgpack(data: bytes, *, use_list: bool = True) -> Any:
    """Return the value of packed bytes.

    Raises:
        DocumentError: they are not one msgpack value, or it nests too deeply.
    """
    try:
        return msgpack.unpackb(data, use_list=use_list)  # it has limits of its own
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise DocumentError(f"not msgpack ({str(error) or type(error).__name__})") from error


def read_json(file: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ConfigError: it cannot be read, or `parse_json` refuses it; names the file.
    """
    return _read(file, parse_json)


def read_object(file: Path) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        ConfigError: it cannot be read, or holds anything but one JSON object; names the file.
    """
    found = read_json(file)
    if not isinstance(found, dict):
        raise ConfigError(f"{file} holds a JSON {_kind(found)}, expected an object")
    return found


def read_toml(file: Path) -> dict[str, Any]:
    """Return the table of a TOML file.

    Raises:
        ConfigError: it cannot be read, or `parse_toml` refuses it; names the file.
    """
    return _read(file, parse_toml)


def read_text(file: Path, *, max_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        ConfigError: it is missing, no regular file, not readable, not UTF-8, or larger than
            `max_bytes`; names the file.
    """
    data = read_bytes(file, max_bytes=max_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start]
        raise ConfigError(
            f"{file} is not UTF-8: line {line} has the byte 0x{found:02x}; save it as UTF-8"
        ) from error


def read_bytes(file: Path, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a file.

    Raises:
        ConfigError: it is missing, no regular file, not readable, or larger than `max_bytes`;
            names the file.
    """
    check_regular(file)
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size > max_bytes:
                raise ConfigError(
                    f"{file} has {size:,} bytes, at most {max_bytes:,} are read: is it the right "
                    "file?"
                )
            return opened.read()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error


def check_regular(file: Path) -> None:
    """Check that a file can be read to its end; an open pipe, as of a shell's `<(...)`, can be.

    Raises:
        ConfigError: it is missing or a directory, or reading it would block; names the file.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError as error:
        raise ConfigError(_missing(file)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{str(file)!r} cannot be read: {reason}") from error
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{file} is a directory: name a file")
    is_open_pipe = stat.S_ISFIFO(mode) and not os.path.exists(os.path.realpath(file))
    if not (stat.S_ISREG(mode) or is_open_pipe):
        raise ConfigError(f"{file} is a {special_kind(mode)}: name a regular file")


def special_kind(mode: int) -> str:
    """Return what a file is, by its mode, where it is neither a regular file nor a directory."""
    if stat.S_ISFIFO(mode):
        return "named pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


_TOO_DEEP = f"it nests more than {MAX_DEPTH} levels deep"
_TOO_LONG = f"it holds an integer of more than {_MAX_DIGITS} digits"


def _missing(file: Path) -> str:
    if file.is_symlink():
        return f"{file} is a link to {os.readlink(file)}, which does not exist"
    return f"{file} does not exist"


def _read(file: Path, parse: Callable[[str], _Found]) -> _Found:
    text = read_text(file)
    try:
        return parse(text)
    except DocumentError as error:
        raise ConfigError(f"{file}: {error}") from error


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise DocumentError(_TOO_LONG)
    return int(digits)


def _check_values(document: object, *, strings: bool = False) -> None:
    """Check the depth, the integers and, where asked for, the strings of a document."""
    level: list[object] = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [part for value in level for part in _parts(value, strings=strings)]
        if not level:
            return
    raise DocumentError(_TOO_DEEP)


def _parts(value: object, *, strings: bool) -> Iterable[object]:
    if isinstance(value, dict):
        return [*value, *value.values()] if strings else value.values()
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, int) and value.bit_length() > 133:  # 40 digits
        raise DocumentError(_TOO_LONG)
    if strings and isinstance(value, str) and _HALF_PAIR.search(value):
        raise DocumentError("it holds a string with half a surrogate pair, which is no character")
    return ()


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "list", str: "string", bool: "boolean"}
    return names.get(type(value), "number")
