"""Keeps a server's process up: starts it, watches it, starts it again within a budget."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from runtime.restarts import RestartBudget, RestartLimits

KEPT = "PACELINE_KEPT"
"""Set in the process's environment; its standard input ends when its keeper does."""
_READY = "ready: "
_REFUSED = 2
_NUM_LINES = 200
_KILLED_S = 10.0


class KeptState(StrEnum):
    """Where a kept process stands."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """To be restarted."""
    ENDED = "ended"
    """By itself, as after `admin drain`, or by `stop`."""
    REFUSED = "refused"
    """What it was asked cannot be: it never was ready and said so."""
    FAILED = "failed"
    """It ended more often than the budget allows, or cannot be started at all."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens."""
        return self in (KeptState.ENDED, KeptState.REFUSED, KeptState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStatus:
    """What is known of a kept process."""

    state: KeptState
    pid: int | None
    """None while it does not run."""
    restarts: int
    exit_code: int | None
    """Of the last run that ended; -9 is SIGKILL."""
    ready_line: str
    """What it said when it got ready: the model and the address; "" while it is not."""
    up_s: float
    """Seconds since it was last ready; 0 while it is not."""
    lines: tuple[str, ...]
    """Its last lines of output, oldest first."""


class ProcessKeeper:
    """A process with a watcher's thread; all methods may be called from any thread."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: str,
        limits: RestartLimits,
        stop_s: float,
        ran_before: bool = False,
        notice: str = "",
    ) -> None:
        """Start the process.

        Args:
            command: what runs it.
            environment: all of its variables.
            directory: where it runs.
            limits: how often it is restarted.
            stop_s: seconds that it gets to end by itself once it is told to.
            ran_before: another keeper had it running, so it is no refusal if its predecessor, which
                ends with that keeper, still holds its place.
            notice: what its output begins with.
        """
        self._ran_before = ran_before
        self._command = list(command)
        self._environment = {**environment, KEPT: "1"}
        self._directory = directory
        self._budget = RestartBudget(limits)
        self._stop_s = stop_s
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._state = KeptState.STARTING
        self._process: subprocess.Popen[str] | None = None
        self._restarts = 0
        self._exit_code: int | None = None
        self._ready_line = ""
        self._ready_at_s: float | None = None
        self._lines: deque[str] = deque([notice] if notice else [], maxlen=_NUM_LINES)
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def status(self) -> KeptStatus:
        """Return where it stands."""
        with self._lock:
            process = self._process
            pid = process.pid if process is not None and process.poll() is None else None
            died = self._state is KeptState.READY and pid is None  # its thread has yet to see it
            ready_s = None if died else self._ready_at_s
            up_s = time.monotonic() - ready_s if ready_s is not None else 0.0
            return KeptStatus(
                state=KeptState.WAITING if died else self._state,
                pid=pid,
                restarts=self._restarts,
                exit_code=self._exit_code,
                ready_line=self._ready_line if ready_s is not None else "",
                up_s=up_s,
                lines=tuple(self._lines),
            )

    def stop(self) -> KeptStatus:
        """End the process, with SIGKILL if it takes longer than it may; returns when it has."""
        self._stopping.set()
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
        self._thread.join(self._stop_s)
        if self._thread.is_alive():
            with self._lock:
                if self._process is not None and self._process.poll() is None:
                    self._process.kill()
            self._thread.join(_KILLED_S)
        return self.status()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                code = self._run_once()
            except OSError as error:  # its directory is gone, or its Python: neither comes back
                self._note(f"error: the process cannot be started in {self._directory}: {error}")
                self._settle(KeptState.FAILED)
                return
            if self._stopping.is_set() or code == 0:
                self._settle(KeptState.ENDED)
                return
            if code == _REFUSED and not self._ran_before:
                self._settle(KeptState.REFUSED)
                return
            pause_s = self._budget.take(time.monotonic())
            if pause_s is None:
                self._settle(KeptState.FAILED)
                return
            self._settle(KeptState.WAITING)
            self._stopping.wait(pause_s)
            self._restarts += 1
        self._settle(KeptState.ENDED)

    def _run_once(self) -> int:
        """Run it to its end; returns its exit code."""
        with self._lock:
            self._state = KeptState.STARTING
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # held open: its end tells the process that we are gone
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self._environment,
                cwd=self._directory,
            )
            if self._stopping.is_set():
                process.send_signal(signal.SIGTERM)
        with process:  # closes its pipes, and waits for it
            assert process.stdout is not None
            for line in process.stdout:
                self._note(line.rstrip("\n"))
        code = process.returncode
        with self._lock:
            self._exit_code = code
            self._ready_at_s = None
        return code

    def _note(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
            if line.startswith(_READY):
                now_s = time.monotonic()
                self._state, self._ready_line, self._ready_at_s = KeptState.READY, line, now_s
                self._ran_before = True
                self._budget.note_running(now_s)

    def _settle(self, state: KeptState) -> None:
        with self._lock:
            self._state = state


def end_with_keeper() -> None:
    """In a kept process: send ourselves SIGTERM once the keeper is gone."""
    if not os.environ.get(KEPT):
        return

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="keeper-watch", daemon=True).start()
