"""A file of checksummed MessagePack records that survives a crash: a torn tail is cut off.

Each record is its length, the CRC-32 of its bytes, and its bytes. The file begins with a magic
line, which tells it from other files.
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
_MAX_RECORD_BYTES = 64 << 20
_MAX_FILE_BYTES = 1 << 34
Record = list[object]


class RecordFile:
    """A file to which one process appends records."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file
        self.num_bytes = os.fstat(file).st_size

    @classmethod
    def create(cls, path: Path) -> "RecordFile":
        """Create an empty file, replacing an old one; raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        file = os.open(path, flags, 0o600)  # it holds users' texts
        os.write(file, _MAGIC)
        return cls(path, file)

    def append(self, record: Record) -> None:
        """Write a record; raises OSError. Only `sync` makes it survive a crash of the machine."""
        data: bytes = msgpack.packb(record)
        framed = _FRAME.pack(len(data), zlib.crc32(data)) + data
        written = os.write(self._file, framed)
        if written != len(framed):
            raise OSError(
                f"{self._path}: wrote {written} of {len(framed)} bytes: is the disk full?"
            )
        self.num_bytes += written

    def sync(self) -> None:
        """Flush the records to the disk; raises OSError."""
        os.fdatasync(self._file)

    def rename(self, path: Path) -> None:
        """Rename the file, replacing another one; raises OSError."""
        self._path.replace(path)
        self._path = path

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class RecordReader:
    """Reads the records of a file once."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ConfigError: it cannot be read, or is not a file of records.
        """
        self._data = read_bytes(path, max_bytes=_MAX_FILE_BYTES)
        head = self._data[: len(_MAGIC)]
        if head != _MAGIC[: len(head)]:
            raise ConfigError(
                f"{path} is not a journal of this version of Paceline: choose another directory"
            )
        self.num_good = min(len(_MAGIC), len(self._data))
        """Bytes of the intact records that were read so far."""

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self._data)

    def __iter__(self) -> Iterator[Record]:
        """Yield the records before the first one that is torn or damaged."""
        data = self._data
        while self.num_good + _FRAME.size <= len(data):
            start = self.num_good + _FRAME.size
            size, checksum = _FRAME.unpack_from(data, self.num_good)
            payload = data[start : start + size]
            if size > _MAX_RECORD_BYTES or len(payload) < size or zlib.crc32(payload) != checksum:
                return
            self.num_good = start + size
            yield parse_msgpack(payload)
