"""The state of a directory's files, to tell whether another process changes them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    inode: int
    num_bytes: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """What tells two versions of a directory apart without reading its files."""

    inode: int
    files: tuple[_File, ...]


def directory_state(directory: Path) -> DirectoryState | None:
    """Return the state of the files that lie directly in a directory; None if it is gone."""
    try:
        found = [(file.name, file.stat()) for file in sorted(directory.iterdir())]
        files = tuple(_File(name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in found)
        return DirectoryState(directory.stat().st_ino, files)
    except OSError:
        return None
