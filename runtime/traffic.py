"""What was served, kept for a drafter to learn from: requests and answers as JSON lines.

It holds what users wrote, so nobody but the owner can read it, and it is kept only where the
operator asked for it. One process writes, any number read along.
"""

import os
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from parallel.messages import Submit
from runtime.draft_corpus import CorpusRecord, append_records, parse_record
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
        """Keep one answer."""
        record = CorpusRecord(
            index=time.time_ns(),
            source="served",
            greedy=submit.sampling.is_greedy,
            prompt_ids=submit.prompt_ids,
            output_ids=tuple(token_ids),
        )
        append_records(self._out, [record])
        if self._out.tell() > self._max_bytes:
            self._out.close()
            self._path.replace(self._path.with_name(_OLD))
            self._open()

    def close(self) -> None:
        """Close the file."""
        self._out.close()

    def _open(self) -> None:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        self._out = open(self._path, "a", encoding="utf-8", opener=private)  # noqa: SIM115


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
        return [parse_record(line.decode("utf-8"), str(self._path)) for line in lines]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _is_another(self) -> bool:
        """Tell whether the path holds a file that is not open yet."""
        if not self._path.exists():
            return False
        if isinstance(self._file, BytesIO):
            return True
        return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
