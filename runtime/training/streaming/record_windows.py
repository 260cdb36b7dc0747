"""A data file in windows of consecutive records, each of which is read on its own.

A file is read once from its start to its end before it is used, to find where its windows begin
and to compute a digest of its contents.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runtime.errors import ConfigError
from runtime.training.data_files import (
    count_rows,
    is_in_lines,
    numbered_lines,
    parsed_line,
    rows_between,
)

Record = tuple[str, dict[str, Any]]
"""A record after its place as errors name it."""
_READ_BYTES = 1 << 20


class RecordWindows(Protocol):
    """A file's records in windows; all have the same number of records, the last one fewer."""

    @property
    def num_records(self) -> int:
        """Records of the file, up to its limit."""
        ...

    @property
    def digest(self) -> str:
        """A digest of the file's contents."""
        ...

    def read(self, window: int) -> list[Record]:
        """Return the records of a window.

        Raises:
            ConfigError: a record cannot be read; names its line.
        """
        ...


def open_windows(file: Path, size: int, *, limit: int | None = None) -> RecordWindows:
    """Find the windows of a file.

    Args:
        file: as `open_records` takes it.
        size: records of a window.
        limit: use only the first records.

    Raises:
        ConfigError: it cannot be read, or has no records.
    """
    found = _LineWindows.of(file, size, limit) if is_in_lines(file) else _rows(file, size, limit)
    if not found.num_records:
        raise ConfigError(f"{file} has no samples")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _LineWindows:
    """JSON lines, by the offset and the number of the first line of each window."""

    file: Path
    size: int
    num_records: int
    digest: str
    starts: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, file: Path, size: int, limit: int | None) -> "_LineWindows":
        starts: list[tuple[int, int]] = []
        digest, offset, count = hashlib.sha256(), 0, 0
        for number, line in numbered_lines(file):
            digest.update(line)
            if line.strip() and (limit is None or count < limit):
                if count % size == 0:
                    starts.append((offset, number))
                count += 1
            offset += len(line)
        return cls(
            file=file,
            size=size,
            num_records=count,
            digest=digest.hexdigest(),
            starts=tuple(starts),
        )

    def read(self, window: int) -> list[Record]:
        offset, number = self.starts[window]
        wanted = min(self.size, self.num_records - window * self.size)
        found: list[Record] = []
        for line_number, line in numbered_lines(self.file, offset=offset, number=number):
            record = parsed_line(self.file, line_number, line)
            if record is not None:
                found.append(record)
            if len(found) == wanted:
                break
        if len(found) < wanted:
            raise ConfigError(f"{self.file} became shorter while it was used: restore it")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowWindows:
    """A table, whose rows are found by their numbers."""

    file: Path
    size: int
    num_records: int
    digest: str

    def read(self, window: int) -> list[Record]:
        first = window * self.size
        return list(rows_between(self.file, first, min(first + self.size, self.num_records)))


def _rows(file: Path, size: int, limit: int | None) -> _RowWindows:
    num_rows = count_rows(file)
    num_records = num_rows if limit is None else min(limit, num_rows)
    return _RowWindows(file=file, size=size, num_records=num_records, digest=_digest_of(file))


def _digest_of(file: Path) -> str:
    digest = hashlib.sha256()
    for part in _contents(file):
        digest.update(part)
    return digest.hexdigest()


def _contents(file: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, or of the files of a directory by their names."""
    for one in sorted(file.rglob("*")) if file.is_dir() else [file]:
        if one.is_file():
            yield one.name.encode()
            with one.open("rb") as opened:
                while part := opened.read(_READ_BYTES):
                    yield part
