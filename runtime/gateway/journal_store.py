"""Journals on disk, with which a restarted server continues its clients' requests.

A directory holds one file of records (`runtime/gateway/record_file.py`); each commit of tokens is
appended. When the file has grown, it is rewritten without the requests that were dropped.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from parallel.decoding.token_source import TokenSource
from parallel.decoding.types import TokenLogprobs
from parallel.messages import Committed, Finished, Submit
from runtime import errors
from runtime.errors import ConfigError, PacelineError, ProtocolError
from runtime.gateway.journal import Journal, OpenRequest
from runtime.gateway.record_file import Record, RecordFile, RecordReader
from runtime.links.codec import decode, encode

_LOG = logging.getLogger("paceline.journal")
_FILE, _NEW, _LOCK = "journal", "journal.new", "lock"
_TARGET, _OPEN, _COMMIT, _END, _FAIL, _DROP = "target", "open", "commit", "end", "fail", "drop"
_COMPACT_BYTES = 16 << 20


class JournalStore:
    """The journals of one server, written by one process."""

    def __init__(
        self, directory: Path, lock: int, target: str, *, compact_bytes: int = _COMPACT_BYTES
    ) -> None:
        self._directory = directory
        self._lock = lock
        self._target = target
        self._compact_bytes = compact_bytes
        self._limit_bytes = compact_bytes
        self._file: RecordFile | None = None
        self._new_file: RecordFile | None = None
        """The file that will replace the present one, while it is written."""
        self._stored: set[int] = set()
        self._copied: set[int] = set()
        """Samples whose records are in the new file."""
        self.restored: list[OpenRequest] = []
        """Requests of an earlier process."""

    @classmethod
    def open(
        cls, directory: Path, target: str, *, compact_bytes: int = _COMPACT_BYTES
    ) -> "JournalStore":
        """Open the journals of a directory, or create them.

        Args:
            directory: created if it is missing; belongs to one server.
            target: name of the target; the tokens of another target cannot be continued.
            compact_bytes: the file is rewritten when it is larger, and twice as large as before.

        Raises:
            ConfigError: the directory cannot be used, is in use, or has other files.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"no journal can be written to {directory}: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ConfigError(
                f"another server has its journal in {directory}: choose another directory"
            ) from error
        store = cls(directory, lock, target, compact_bytes=compact_bytes)
        try:
            store._start()
        except OSError as error:
            store.close()
            raise ConfigError(f"no journal can be written to {directory}: {error}") from error
        except ConfigError:
            store.close()
            raise
        return store

    # --- events ---------------------------------------------------------------------------------

    def opened(self, request: OpenRequest) -> None:
        """Store a request, if it has a name: others cannot be resumed."""
        if request.name:
            numbers = [journal.submit.request for journal in request.samples]
            self._stored.update(numbers)
            if self._new_file is not None:
                self._copied.update(numbers)
            self._append(_opening(request), numbers[0])

    def committed(self, message: Committed) -> None:
        """Store tokens of a sample."""
        if message.request in self._stored:
            logprobs = [[one.logprob, one.top_ids, one.top_logprobs] for one in message.logprobs]
            sources = list(message.sources)
            record: Record = [_COMMIT, message.request, message.token_ids, logprobs, sources]
            self._append(record, message.request)

    def ended(self, journal: Journal) -> None:
        """Store the end of a sample."""
        number = journal.submit.request
        if number not in self._stored:
            return
        if journal.finished is not None:
            self._append([_END, encode(journal.finished)], number)
        elif journal.error is not None:
            kind, text = type(journal.error).__name__, str(journal.error)
            if hasattr(errors, kind):  # else the server failed, not the request
                self._append([_FAIL, number, kind, text], number)

    def dropped(self, request: OpenRequest) -> None:
        """Forget a request."""
        numbers = [journal.submit.request for journal in request.samples]
        if self._stored.issuperset(numbers):
            self._stored.difference_update(numbers)
            self._append([_DROP, numbers], numbers[0])

    async def compact(self, requests: Iterable[OpenRequest]) -> None:
        """Rewrite the file with only these requests, if it has grown.

        Other tasks run between two requests; their records are written to both files.
        """
        if self._file is None or self._file.num_bytes <= self._limit_bytes:
            return
        try:
            self._new_file = self._create_file()
            for request in requests:
                numbers = [journal.submit.request for journal in request.samples]
                if self._stored.issuperset(numbers):
                    _copy(request, self._new_file)
                    self._copied.update(numbers)
                await asyncio.sleep(0)
            await asyncio.to_thread(self._new_file.sync)
            self._take_over(self._new_file)
        except OSError as error:
            self._give_up(error)
        finally:
            if self._new_file is not None and self._new_file is not self._file:
                self._new_file.close()
            self._new_file = None
            self._copied.clear()

    def sync(self) -> None:
        """Flush the records to the disk; blocks, and may run in its own thread."""
        file = self._file
        if file is not None:
            with contextlib.suppress(OSError):  # the next write reports it
                file.sync()

    def close(self) -> None:
        """Close the file and release the directory."""
        if self._file is not None:
            self._file.close()
            self._file = None
        os.close(self._lock)

    # --- the file -----------------------------------------------------------------------------

    def _start(self) -> None:
        path = self._directory / _FILE
        if path.exists():
            self._read(path)
        new = self._create_file()
        for request in self.restored:
            _copy(request, new)
        new.sync()
        self._take_over(new)

    def _read(self, path: Path) -> None:
        reader = RecordReader(path)
        requests: dict[int, tuple[OpenRequest, Journal]] = {}
        try:
            for record in reader:
                self._apply(record, requests, path)
        except (ProtocolError, ValueError, TypeError, KeyError, IndexError) as error:
            raise ConfigError(f"{path} holds a record that cannot be read: {error}") from error
        cut = reader.num_bytes - reader.num_good
        if cut:
            _LOG.warning("%s ends in %d bytes that are torn or damaged: cut off", path, cut)
        self.restored = list(dict.fromkeys(request for request, _ in requests.values()))
        self._stored = set(requests)

    def _apply(
        self, record: Record, requests: dict[int, tuple[OpenRequest, Journal]], path: Path
    ) -> None:
        match record:
            case ["target", str(target)]:
                if target != self._target:
                    raise ConfigError(
                        f"{path} has requests of {target}, this server runs {self._target}: choose "
                        "another directory"
                    )
            case ["open", str(client), str(name), float(wall_s), list(frames)]:
                request = _reopened(client, name, wall_s, frames)
                for journal in request.samples:
                    requests[journal.submit.request] = (request, journal)
            case ["commit", int(number), list(token_ids), list(logprobs), list(sources)]:
                journal = requests[number][1]
                journal.token_ids.extend(token_ids)
                journal.logprobs.extend(_logprobs(one) for one in logprobs)
                journal.sources.extend(map(TokenSource, sources))
            case ["end", bytes(frame)]:
                finished = decode(frame)
                assert isinstance(finished, Finished)
                requests[finished.request][1].finished = finished
            case ["fail", int(number), str(kind), str(text)]:
                error: type[PacelineError] = getattr(errors, kind, PacelineError)
                requests[number][1].error = error(text)
            case ["drop", list(numbers)]:
                for number in numbers:
                    requests.pop(number, None)
            case _:
                raise ValueError(f"unknown record {record[0]!r} with {len(record)} parts")

    def _create_file(self) -> RecordFile:
        """Create an empty file beside the present one; raises OSError."""
        new = RecordFile.create(self._directory / _NEW)
        new.append([_TARGET, self._target])
        return new

    def _take_over(self, new: RecordFile) -> None:
        """Replace the present file by a new one; raises OSError."""
        new.rename(self._directory / _FILE)
        if self._file is not None:
            self._file.close()
        self._file = new
        self._limit_bytes = max(self._compact_bytes, 2 * new.num_bytes)

    def _append(self, record: Record, number: int) -> None:
        """Append a record about a sample."""
        if self._file is None:
            return
        try:
            self._file.append(record)
            if self._new_file is not None and number in self._copied:
                self._new_file.append(record)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Continue without a journal: a full disk must not end the service."""
        _LOG.error("the journal in %s is not written from now on: %s", self._directory, error)
        if self._file is not None:
            self._file.close()
            self._file = None


def _copy(request: OpenRequest, file: RecordFile) -> None:
    """Write all records of a request; raises OSError."""
    if request.name:
        for record in _records(request):
            file.append(record)


def _opening(request: OpenRequest) -> Record:
    age_s = time.monotonic() - request.samples[0].submitted_s
    frames = [encode(journal.submit) for journal in request.samples]
    return [_OPEN, request.client, request.name, time.time() - age_s, frames]


def _records(request: OpenRequest) -> list[Record]:
    """Return all records of a request."""
    records = [_opening(request)]
    for journal in request.samples:
        number = journal.submit.request
        logprobs = [[one.logprob, one.top_ids, one.top_logprobs] for one in journal.logprobs]
        if journal.token_ids:
            sources = list(journal.sources)
            records.append([_COMMIT, number, journal.token_ids, logprobs, sources])
        if journal.finished is not None:
            records.append([_END, encode(journal.finished)])
        elif journal.error is not None and hasattr(errors, type(journal.error).__name__):
            records.append([_FAIL, number, type(journal.error).__name__, str(journal.error)])
    return records


def _reopened(client: str, name: str, wall_s: float, frames: Iterable[bytes]) -> OpenRequest:
    samples = []
    for frame in frames:
        submit = decode(frame)
        assert isinstance(submit, Submit)
        submitted_s = time.monotonic() - max(0.0, time.time() - wall_s)
        samples.append(Journal(submit=submit, submitted_s=submitted_s))
    return OpenRequest(client=client, name=name, samples=samples)


def _logprobs(values: list[object]) -> TokenLogprobs:
    logprob, ids, logprobs = values
    assert isinstance(logprob, float)
    assert isinstance(ids, list)
    assert isinstance(logprobs, list)
    return TokenLogprobs(logprob=logprob, top_ids=tuple(ids), top_logprobs=tuple(logprobs))
