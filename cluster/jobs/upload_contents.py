"""Finds files that Ray cannot upload: it would wait for a pipe, or fail without naming the file."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError
from runtime.files.documents import special_kind

_NEVER = {".git", ".venv", "__pycache__"}


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A file that is not uploaded."""

    name: str
    """Relative to the directory."""
    why: str

    @property
    def pattern(self) -> str:
        """A line of .gitignore that matches only this file."""
        return "/" + re.sub(r"([\\*?\[\]!# ])", r"\\\1", self.name)


def left_behind(directory: Path) -> list[LeftBehind]:
    """Return the files of a directory that cannot be read to their end.

    Raises:
        ConfigError: the name of a file is not UTF-8, which Ray cannot upload.
    """
    return list(_walk(directory, directory, (directory.resolve(),)))


def _walk(root: Path, folder: Path, above: tuple[Path, ...]) -> Iterator[LeftBehind]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name in _NEVER:
                continue
            path = Path(entry.path)
            _check_name(path)
            why = _reason(path, above)
            if why is not None:
                yield LeftBehind(str(path.relative_to(root)), why)
            elif path.is_dir():
                yield from _walk(root, path, (*above, path.resolve()))


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{str(path)!a} cannot be uploaded, as its name is not UTF-8: rename it"
        ) from error


def _reason(path: Path, above: tuple[Path, ...]) -> str | None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a broken link" if path.is_symlink() else str(error.strerror)
    if stat.S_ISDIR(mode):
        if path.is_symlink() and path.resolve() in above:
            return "a link to a directory that holds it"
        return None if os.access(path, os.R_OK | os.X_OK) else "not readable"
    if not stat.S_ISREG(mode):
        return f"a {special_kind(mode)}"
    return None if os.access(path, os.R_OK) else "not readable"
