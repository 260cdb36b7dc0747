"""The lock of a job's directory, and the request to stop the job."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime.errors import ConfigError

LOCK = "job.lock"
_CANCEL = "job.cancel"
_POLL_S = 0.2


class JobLock:
    """A lock held by the process that trains in a directory; it ends with the process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = -1
        self._cancelled = False

    def __enter__(self) -> Self:
        """Lock the directory.

        Raises:
            ConfigError: another process trains in it, or it cannot be created.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise ConfigError(f"`out` is {self._directory}: {error}") from error
        if not _take(self._file):
            pid = os.read(self._file, 32).decode()
            os.close(self._file)
            raise ConfigError(
                f"process {pid} trains in {self._directory}: wait for it, "
                f"`paceline train cancel {self._directory}`, or name another `out`"
            )
        os.truncate(self._file, 0)
        os.write(self._file, str(os.getpid()).encode())
        (self._directory / _CANCEL).unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the directory."""
        os.close(self._file)

    @property
    def is_cancelled(self) -> bool:
        """Whether the job is to stop after its step."""
        return self._cancelled or (self._directory / _CANCEL).exists()

    def cancel(self) -> None:
        """Request that the job stops after its step."""
        self._cancelled = True


def is_running(directory: Path) -> bool:
    """Return whether a process trains in a directory."""
    try:
        file = os.open(directory / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _take(file)
    finally:
        os.close(file)


def cancel(directory: Path, timeout_s: float) -> bool:
    """Request that a running job stops; return whether it has within the timeout."""
    (directory / _CANCEL).touch()
    deadline_s = time.monotonic() + timeout_s
    while is_running(directory):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def _take(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
