"""Reads text, TOML and msgpack files from outside the project; every defect is one clear error.

The libraries raise undocumented exceptions: `RecursionError` for deep nesting, a bare `ValueError`
for a number of 5,000 digits. Reading a named pipe blocks until another process writes to it.
"""

import os
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack

from runtime.errors import ConfigError

MAX_DEPTH = 100
"""Nesting of lists and objects; the formats that are read here have fewer than ten levels."""
MAX_FILE_BYTES = 1 << 30
MAX_DIGITS = 40
"""Hugging Face writes "no limit" as an integer of 31 digits."""
_MAX_BITS = 133  # 40 decimal digits; TOML also has hexadecimal integers


class DocumentError(ConfigError, ValueError):
    """Text or bytes that are not a document of their format; names the place, if known, and the
    reason."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{where}: {reason}" if where else reason)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the table of a TOML text.

    Args:
        text: TOML.
        where: names the text in an error.

    Raises:
        DocumentError: it is not TOML, nests too deeply, or holds an integer of more than 40 digits.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"not TOML ({error})", where) from error
    except ValueError as error:  # raised by int(), which counts the digits
        raise _too_long(where) from error
    except RecursionError as error:
        raise too_deep(where) from error
    check_depth(found, where)
    return found


def parse_msgpack(data: bytes, *, use_list: bool = True) -> Any:
    """Return the value of packed bytes.

    Args:
        data: one msgpack value.
        use_list: return lists, not tuples.

    Raises:
        DocumentError: they are not one msgpack value, or the value nests too deeply.
    """
    try:
        return msgpack.unpackb(data, use_list=use_list)  # msgpack has its own limits
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise DocumentError(f"not msgpack ({reason})") from error


def read_toml(file: Path, *, kind: str = "file") -> dict[str, Any]:
    """Return the table of a TOML file.

    Raises:
        ConfigError: it cannot be read, or `parse_toml` rejects it; names the file.
    """
    return parse_toml(read_text(file, kind=kind), str(file))


def read_text(file: Path, *, kind: str = "file", max_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        ConfigError: it is missing, not a regular file, not readable, not UTF-8, or larger than
            `max_bytes`; names the file.
    """
    data = read_bytes(file, kind=kind, max_bytes=max_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start]
        raise ConfigError(
            f"{kind} {file} is not UTF-8: line {line} has the byte 0x{found:02x}; save it as UTF-8"
        ) from error


def read_bytes(file: Path, *, kind: str = "file", max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a file.

    Raises:
        ConfigError: it is missing, not a regular file, not readable, or larger than `max_bytes`;
            names the file.
    """
    check_regular(file, kind=kind)
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size > max_bytes:
                raise ConfigError(
                    f"{kind} {file} has {size:,} bytes, at most {max_bytes:,} are read: is it the "
                    "right file?"
                )
            return opened.read()
    except OSError as error:
        raise ConfigError(f"{kind} {file} cannot be read: {error.strerror or error}") from error


def check_regular(file: Path, *, kind: str = "file") -> None:
    """Check that a file can be read to its end, as an open pipe of a shell's `<(...)` can be.

    Raises:
        ConfigError: it is missing or a directory, or reading it would block; names the file.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError as error:
        link = f" (a link to {os.readlink(file)})" if file.is_symlink() else ""
        raise ConfigError(f"{kind} {file} does not exist{link}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{kind} {str(file)!r} cannot be read: {reason}") from error
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{kind} {file} is a directory: name a file")
    is_open_pipe = stat.S_ISFIFO(mode) and not os.path.exists(os.path.realpath(file))
    if not (stat.S_ISREG(mode) or is_open_pipe):
        raise ConfigError(f"{kind} {file} is a {special_kind(mode)}: name a regular file")


def special_kind(mode: int) -> str:
    """Return the kind of a file that is neither a regular file nor a directory, by its mode."""
    if stat.S_ISFIFO(mode):
        return "named pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def check_depth(document: object, where: str) -> None:
    """Check that a document nests at most 100 levels and has no integer of more than 40 digits.

    Raises:
        DocumentError: it does not.
    """
    level: list[object] = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [part for value in level for part in _parts(value, where)]
        if not level:
            return
    raise too_deep(where)


def too_deep(where: str) -> DocumentError:
    """Return the error of a document that nests too deeply."""
    return DocumentError(f"it nests too deeply to be read, more than {MAX_DEPTH} levels", where)


def _too_long(where: str) -> DocumentError:
    return DocumentError(f"an integer has more than {MAX_DIGITS} digits", where)


def _parts(value: object, where: str) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise _too_long(where)
    return value if isinstance(value, (list, tuple)) else ()
