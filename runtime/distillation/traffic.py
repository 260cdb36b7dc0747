"""What was served, kept for a drafter to learn from: requests and answers as JSON lines.

It holds what users wrote, so only its owner can read it, and it is kept only where the
operator asked for it. One process writes, any number read along.
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
    """Appends answers to a directory's file; a full one is set aside, and an older one dropped."""

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
            raise ConfigError(f"traffic cannot be kept in {directory}: {error}") from error

    def append(self, submit: Submit, token_ids: Sequence[int]) -> None:
        """Keep one answer, whole or not at all.

        Raises:
            OSError: it cannot be written; the disk may be full.
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
            raise OSError(f"{self._path} took {written} of {len(data)} bytes: is the disk full?")
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
    """Reads along; each answer is returned once."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._file: BinaryIO = BytesIO()
        self._rest = b""

    def new(self) -> list[CorpusRecord]:
        """Return what was written since the last call; a line still being written comes later.

        Raises:
            ConfigError: a line is no record.
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
        """Return whether the path holds a file that is not open yet."""
        if not self._path.exists():
            return False
        if isinstance(self._file, BytesIO):
            return True
        return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
