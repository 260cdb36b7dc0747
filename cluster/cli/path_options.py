"""Callbacks of options that take a path: a file is found, and an output can be written, at once.

Each is given to `typer.Option` or `typer.Argument` and raises ConfigError with the option's name.
"""

from pathlib import Path
from typing import TypeVar

import typer

from cluster.options.paths import check_path
from cluster.options.schema import PathUse

_Given = TypeVar("_Given", Path, list[Path], Path | None, list[Path] | None)


def input_file(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a file that can be read."""
    return _each(parameter, value, PathUse.INPUT_FILE)


def input_directory(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a directory that can be read."""
    return _each(parameter, value, PathUse.INPUT_DIRECTORY)


def output_file(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a file that can be written; it may exist, its directory must."""
    return _each(parameter, value, PathUse.OUTPUT_FILE)


def picture(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a .png that can be written."""
    return _each(parameter, value, PathUse.PICTURE)


def output_directory(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a directory that can be written, or be made."""
    return _each(parameter, value, PathUse.OUTPUT_DIRECTORY)


def new_directory(parameter: typer.CallbackParam, value: _Given) -> _Given:
    """Return the path of a directory that does not exist and can be made."""
    return _each(parameter, value, PathUse.NEW_DIRECTORY)


def _each(parameter: typer.CallbackParam, value: _Given, use: PathUse) -> _Given:
    name = max(parameter.opts, key=len)
    name = name if name.startswith("-") else name.upper()
    for path in value if isinstance(value, list) else [value]:
        if path is not None:
            check_path(path, use, name)
    return value
