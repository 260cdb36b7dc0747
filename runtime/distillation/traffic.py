"""Served traffic for training a drafter: requests and answers as JSON lines.

The file holds the text of users, so only its owner can read it, and it is written only if the
operator enables it. One process writes; any number of processes read.
"""

import os
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from parallel.messages import Submit
from runtime.distillation.draft_corpus import CorpusRecord, parse_record, record_line
from runtime.errors import ConfigError

_FILE = "traffic.jsonl"
_OLD = "traffic.old.jsonl"
_MAX_BYTES = 64 << 20


class TrafficLog:
    """Appends answers to a file; a full file is renamed and replaces the older one."""

    def __init__(self, directory: Path, *, max_bytes: int = _MAX_BYTES) -> None:
        """Open the log.

        Raises:
            ConfigError: the directory cannot be written.
        """
        self._path = directory / _FILE
        self._max_bytes = max_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise ConfigError(f"traffic cannot be written to {directory}: {error}") from error

    def append(self, submit: Submit, token_ids: Sequence[int]) -> None:
        """Append one answer, whole or not at all.

        Raises:
            OSError: the answer cannot be written; the disk may be full.
        """
        record = CorpusRecord(
            index=time.time_ns(),
            source="served",
            greedy=submit.sampling.is_greedy,
            prompt_ids=submit.prompt_ids,
            output_ids=tuple(token_ids),
        )
        data = record_line(record).encode()
        size = os.fstat(self._file).st_size
        written = os.write(self._file, data)
        if written != len(data):
            os.ftruncate(self._file, size)
            raise OSError(f"{self._path}: wrote {written} of {len(data)} bytes: is the disk full?")
        if size + written > self._max_bytes:
            self._path.replace(self._path.with_name(_OLD))
            os.close(self._file)
            self._open()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


class TrafficReader:
    """Reads a log while it grows; returns each answer once."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._file: BinaryIO = BytesIO()
        self._rest = b""

    def new(self) -> list[CorpusRecord]:
        """Return the answers since the last call; an incomplete line is returned by a later call.

        Raises:
            ConfigError: a line is not a record.
        """
        content = self._file.read()
        if self._is_another():
            self._file.close()
            self._file = self._path.open("rb")
            content += self._file.read()
        *lines, self._rest = (self._rest + content).split(b"\n")
        try:
            return [parse_record(line.decode("utf-8"), str(self._path)) for line in lines]
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._path}: a line is not UTF-8") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _is_another(self) -> bool:
        """Return whether the path names a file other than the open one."""
        if not self._path.exists():
            return False
        if isinstance(self._file, BytesIO):
            return True
        return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
