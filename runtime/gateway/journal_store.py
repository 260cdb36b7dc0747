"""Journals on disk: a server that was killed goes on with its clients' requests.

A directory holds one file of records (`runtime/gateway/record_file.py`), appended to as tokens are
committed. It is written anew, without what clients have done with, when it has grown.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

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
    """The journals of one server, kept by one process."""

    def __init__(
        self, directory: Path, lock: int, target: str, *, compact_bytes: int = _COMPACT_BYTES
    ) -> None:
        self._directory = directory
        self._lock = lock
        self._target = target
        self._compact_bytes = compact_bytes
        self._limit_bytes = compact_bytes
        self._file: RecordFile | None = None
        self._next: RecordFile | None = None
        """What takes the file's place, while it is written."""
        self._kept: set[int] = set()
        self._copied: set[int] = set()
        """Samples whose past is in the next file."""
        self.restored: list[OpenRequest] = []
        """What an earlier process left."""

    @classmethod
    def open(
        cls, directory: Path, target: str, *, compact_bytes: int = _COMPACT_BYTES
    ) -> "JournalStore":
        """Open a directory's journals, or begin them.

        Args:
            directory: made if need be; one server's alone.
            target: what decodes; tokens of another target are of no use.
            compact_bytes: the file is written anew when it is larger, and twice as large as before.

        Raises:
            ConfigError: the directory cannot be used, is used, or holds something else.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"no journal can be kept in {directory}: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ConfigError(
                f"another server keeps its journal in {directory}: name another directory"
            ) from error
        store = cls(directory, lock, target, compact_bytes=compact_bytes)
        try:
            store._begin()
        except OSError as error:
            store.close()
            raise ConfigError(f"no journal can be kept in {directory}: {error}") from error
        except ConfigError:
            store.close()
            raise
        return store

    # --- what happens -------------------------------------------------------------------------

    def opened(self, request: OpenRequest) -> None:
        """Keep a request; one without a name is nobody's to take up again."""
        if request.name:
            numbers = [journal.submit.request for journal in request.samples]
            self._kept.update(numbers)
            if self._next is not None:
                self._copied.update(numbers)
            self._append(_opening(request), numbers[0])

    def committed(self, message: Committed) -> None:
        """Keep a sample's tokens."""
        if message.request in self._kept:
            logprobs = [[one.logprob, one.top_ids, one.top_logprobs] for one in message.logprobs]
            record: Record = [_COMMIT, message.request, message.token_ids, logprobs]
            self._append(record, message.request)

    def ended(self, journal: Journal) -> None:
        """Keep how a sample ended."""
        number = journal.submit.request
        if number not in self._kept:
            return
        if journal.finished is not None:
            self._append([_END, encode(journal.finished)], number)
        elif journal.error is not None:
            kind, text = type(journal.error).__name__, str(journal.error)
            if hasattr(errors, kind):  # else it is this server's trouble, not the request's
                self._append([_FAIL, number, kind, text], number)

    def dropped(self, request: OpenRequest) -> None:
        """Forget a request."""
        numbers = [journal.submit.request for journal in request.samples]
        if self._kept.issuperset(numbers):
            self._kept.difference_update(numbers)
            self._append([_DROP, numbers], numbers[0])

    async def tend(self, requests: Iterable[OpenRequest]) -> None:
        """Rewrite the file, with these requests alone, if it has grown.

        Others run between two requests; what they keep meanwhile goes to both files.
        """
        if self._file is None or self._file.num_bytes <= self._limit_bytes:
            return
        try:
            self._next = self._begun()
            for request in requests:
                numbers = [journal.submit.request for journal in request.samples]
                if self._kept.issuperset(numbers):
                    _copy(request, self._next)
                    self._copied.update(numbers)
                await asyncio.sleep(0)
            await asyncio.to_thread(self._next.sync)
            self._take_over(self._next)
        except OSError as error:
            self._give_up(error)
        finally:
            if self._next is not None and self._next is not self._file:
                self._next.close()
            self._next = None
            self._copied.clear()

    def sync(self) -> None:
        """Bring what was kept to the disk; blocks, and may run in a thread of its own."""
        file = self._file
        if file is not None:
            with contextlib.suppress(OSError):  # the next write tells
                file.sync()

    def close(self) -> None:
        """Let go of the directory."""
        if self._file is not None:
            self._file.close()
            self._file = None
        os.close(self._lock)

    # --- the file -----------------------------------------------------------------------------

    def _begin(self) -> None:
        path = self._directory / _FILE
        if path.exists():
            self._read(path)
        new = self._begun()
        for request in self.restored:
            _copy(request, new)
        new.sync()
        self._take_over(new)

    def _read(self, path: Path) -> None:
        reader = RecordReader(path)
        requests: dict[int, tuple[OpenRequest, Journal]] = {}
        try:
            for record in reader:
                self._replay(record, requests, path)
        except (ProtocolError, ValueError, TypeError, KeyError, IndexError) as error:
            raise ConfigError(f"{path} holds a record that cannot be read: {error}") from error
        cut = reader.num_bytes - reader.num_good
        if cut:
            _LOG.warning("%s ends in %d bytes that are torn or damaged: cut off", path, cut)
        self.restored = list(dict.fromkeys(request for request, _ in requests.values()))
        self._kept = set(requests)

    def _replay(
        self, record: Record, requests: dict[int, tuple[OpenRequest, Journal]], path: Path
    ) -> None:
        match record:
            case ["target", str(target)]:
                if target != self._target:
                    raise ConfigError(
                        f"{path} has requests of {target}, this server runs {self._target}: name "
                        "another directory"
                    )
            case ["open", str(client), str(name), float(wall_s), list(frames)]:
                request = _reopened(client, name, wall_s, frames)
                for journal in request.samples:
                    requests[journal.submit.request] = (request, journal)
            case ["commit", int(number), list(token_ids), list(logprobs)]:
                journal = requests[number][1]
                journal.token_ids.extend(token_ids)
                journal.logprobs.extend(_logprobs(one) for one in logprobs)
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
                raise ValueError(f"a {record[0]!r} of {len(record)} parts")

    def _begun(self) -> RecordFile:
        """Return a file beside the present one, with no request in it; raises OSError."""
        new = RecordFile.create(self._directory / _NEW)
        new.append([_TARGET, self._target])
        return new

    def _take_over(self, new: RecordFile) -> None:
        """Keep to another file from now on; raises OSError."""
        new.rename(self._directory / _FILE)
        if self._file is not None:
            self._file.close()
        self._file = new
        self._limit_bytes = max(self._compact_bytes, 2 * new.num_bytes)

    def _append(self, record: Record, number: int) -> None:
        """Write what happened to the request of a sample."""
        if self._file is None:
            return
        try:
            self._file.append(record)
            if self._next is not None and number in self._copied:
                self._next.append(record)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Go on without: a full disk must not end the service."""
        _LOG.error("the journal in %s is kept no longer: %s", self._directory, error)
        if self._file is not None:
            self._file.close()
            self._file = None


def _copy(request: OpenRequest, file: RecordFile) -> None:
    """Write all of a request; raises OSError."""
    if request.name:
        for record in _records(request):
            file.append(record)


def _opening(request: OpenRequest) -> Record:
    age_s = time.monotonic() - request.samples[0].submitted_s
    frames = [encode(journal.submit) for journal in request.samples]
    return [_OPEN, request.client, request.name, time.time() - age_s, frames]


def _records(request: OpenRequest) -> list[Record]:
    """Return the records that tell all of a request."""
    records = [_opening(request)]
    for journal in request.samples:
        number = journal.submit.request
        logprobs = [[one.logprob, one.top_ids, one.top_logprobs] for one in journal.logprobs]
        if journal.token_ids:
            records.append([_COMMIT, number, journal.token_ids, logprobs])
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
