"""Callbacks of options that take a path: a file is found, and an output can be written, at once.

Each is given to `typer.Option` or `typer.Argument` and raises ConfigError with the option's name,
before anything is loaded or started.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from runtime.errors import ConfigError
from runtime.files.documents import check_regular

_Given = TypeVar("_Given", Path, list[Path], Path | None, list[Path] | None)


def input_file(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a file that can be read."""
    return _each(parameter, value, _check_readable)


def input_directory(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a directory that can be read."""
    return _each(parameter, value, _check_directory)


def output_file(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a file that can be written; it may exist, its directory must."""
    return _each(parameter, value, _check_writable)


def picture(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a .png that can be written."""
    return _each(parameter, value, _check_picture)


def output_directory(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a directory that can be written, or be made."""
    return _each(parameter, value, _check_fillable)


def new_directory(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a directory that does not exist and can be made."""
    return _each(parameter, value, _check_new)


def _each(
    parameter: typer.CallbackParam, value: _Given, check: Callable[[Path, str], None]
) -> _Given:
    name = max(parameter.opts, key=len)
    name = name if name.startswith("-") else name.upper()
    for path in value if isinstance(value, list) else [value]:
        if path is None:
            continue
        try:
            check(path, name)
        except (OSError, ValueError) as error:  # ValueError: a NUL, or what the locale lacks
            if isinstance(error, ConfigError):
                raise
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{name} {ascii(str(path))[1:-1]:.200}: {reason}") from error
    return value


def _check_readable(path: Path, name: str) -> None:
    check_regular(path, kind=name)
    if path.is_file():  # opening a pipe would take what it holds
        with path.open("rb") as opened:
            opened.read(1)


def _check_directory(path: Path, name: str) -> None:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise ConfigError(f"{name} {path} {what}: name a directory")
    os.listdir(path)


def _check_writable(path: Path, name: str) -> None:
    if path.exists():
        check_regular(path, kind=name)
        with path.open("ab"):
            return
    directory = Path(os.path.realpath(path)).parent
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise ConfigError(f"{name} {path} cannot be written: {directory} {what}")
    _try_to_write(directory, path, name)


def _check_picture(path: Path, name: str) -> None:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{name} {path}: pictures are PNG; name a file that ends in .png")
    _check_writable(path, name)


def _check_fillable(path: Path, name: str) -> None:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{name} {path} is a file: name a directory")
    _try_to_write(_deepest(path), path, name)


def _check_new(path: Path, name: str) -> None:
    if os.path.lexists(path):
        raise ConfigError(f"{name} {path} exists: name a new directory")
    _try_to_write(_deepest(path), path, name)


def _deepest(path: Path) -> Path:
    """Return the deepest of a path's directories that exists."""
    real = Path(os.path.realpath(path))
    return next(one for one in (real, *real.parents) if one.exists())


def _try_to_write(directory: Path, path: Path, name: str) -> None:
    """Make a file in a directory and drop it: permissions alone do not tell what a disk takes."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0")
    except OSError as error:
        raise ConfigError(
            f"{name} {path} cannot be written: {directory}: {error.strerror}; name another place"
        ) from error
