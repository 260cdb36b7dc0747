"""Checks whether a process on this host still runs, safe against pid reuse (Linux)."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """The identity of one process: a pid can be reused, the pair with its start cannot."""

    pid: int
    started: int
    """Start time in clock ticks since boot: field 22 of /proc/<pid>/stat."""

    @classmethod
    def of_this_process(cls) -> "ProcessIdentity":
        """Return the calling process's identity."""
        pid = os.getpid()
        fields = _stat_fields(pid)
        assert fields is not None
        return cls(pid=pid, started=int(fields[19]))

    def is_alive(self) -> bool:
        """Return whether this process runs; a zombie does not."""
        fields = _stat_fields(self.pid)
        return fields is not None and fields[0] not in "ZX" and int(fields[19]) == self.started


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the command name before it may contain spaces
