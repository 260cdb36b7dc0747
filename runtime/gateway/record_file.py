"""A file of checksummed MessagePack records that survives a crash: a torn tail is cut off.

Each record is its length, the CRC-32 of its bytes, and its bytes. The file begins with a magic
line, so that nothing else is taken for one.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgpack

from runtime.errors import ConfigError
from runtime.files.documents import parse_msgpack, read_bytes

_MAGIC = b"PACELINE JOURNAL 1\n"
_FRAME = struct.Struct("<II")
_MOST_BYTES = 64 << 20  # of one record
_MAX_FILE_BYTES = 1 << 34
Record = list[object]


class RecordFile:
    """Appended to by one process."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file
        self.num_bytes = os.fstat(file).st_size

    @classmethod
    def create(cls, path: Path) -> "RecordFile":
        """Make an empty file, in place of what is there; raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        file = os.open(path, flags, 0o600)  # it holds what users wrote
        os.write(file, _MAGIC)
        return cls(path, file)

    def append(self, record: Record) -> None:
        """Write a record; raises OSError. It outlives this process, not the machine: see `sync`."""
        data: bytes = msgpack.packb(record)
        framed = _FRAME.pack(len(data), zlib.crc32(data)) + data
        written = os.write(self._file, framed)
        if written != len(framed):
            raise OSError(f"{self._path} took {written} of {len(framed)} bytes: is the disk full?")
        self.num_bytes += written

    def sync(self) -> None:
        """Bring what was written to the disk; raises OSError."""
        os.fdatasync(self._file)

    def rename(self, path: Path) -> None:
        """Take another file's place; raises OSError."""
        self._path.replace(path)
        self._path = path

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class RecordReader:
    """Reads a file once."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ConfigError: it cannot be read, or is no such file.
        """
        self._data = read_bytes(path, max_bytes=_MAX_FILE_BYTES)
        head = self._data[: len(_MAGIC)]
        if head != _MAGIC[: len(head)]:
            raise ConfigError(
                f"{path} is no journal of this version of Paceline: name another directory"
            )
        self.num_good = min(len(_MAGIC), len(self._data))
        """Bytes that are whole, so far as they were read."""

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self._data)

    def __iter__(self) -> Iterator[Record]:
        """Yield the records up to the first one that is torn or damaged."""
        data = self._data
        while self.num_good + _FRAME.size <= len(data):
            start = self.num_good + _FRAME.size
            size, checksum = _FRAME.unpack_from(data, self.num_good)
            payload = data[start : start + size]
            if size > _MOST_BYTES or len(payload) < size or zlib.crc32(payload) != checksum:
                return
            self.num_good = start + size
            yield parse_msgpack(payload)
