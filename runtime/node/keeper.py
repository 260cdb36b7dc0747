"""Keeps a server's process running: starts it, watches it, and restarts it within a budget."""

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
"""Set in the process's environment; the keeper's end closes its standard input."""
_READY = "ready: "
_REJECTED = 2
_NUM_LINES = 200
_KILLED_S = 10.0


class KeptState(StrEnum):
    """The state of a kept process."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """Waiting for its restart."""
    ENDED = "ended"
    """Ended normally, as after `admin drain`, or by `stop`."""
    REJECTED = "rejected"
    """Rejected its options: it was never ready and exited with an error."""
    FAILED = "failed"
    """Ended more often than the budget allows, or cannot be started."""

    @property
    def is_final(self) -> bool:
        """Whether the process will not run again."""
        return self in (KeptState.ENDED, KeptState.REJECTED, KeptState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStatus:
    """The status of a kept process."""

    state: KeptState
    pid: int | None
    """None while the process does not run."""
    restarts: int
    exit_code: int | None
    """Exit code of the last run that ended; -9 is SIGKILL."""
    ready_line: str
    """The line it prints when it is ready, with model and address; "" while it is not ready."""
    up_s: float
    """Seconds since it became ready; 0 while it is not ready."""
    lines: tuple[str, ...]
    """The last lines of its output, oldest first."""


class ProcessKeeper:
    """A process and a thread that watches it; any thread may call its methods."""

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
            command: the command line of the process.
            environment: its whole environment.
            directory: its working directory.
            limits: how often it is restarted.
            stop_s: seconds from SIGTERM to SIGKILL.
            ran_before: another keeper ran it before: a failed start may then be caused by the
                predecessor, which ends with its keeper and may still hold the port.
            notice: first line of its output.
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
        """Return the status."""
        with self._lock:
            process = self._process
            pid = process.pid if process is not None and process.poll() is None else None
            died = self._state is KeptState.READY and pid is None  # the thread has not seen it yet
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
        """End the process, with SIGKILL after `stop_s`; returns when it has ended."""
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
            except OSError as error:  # its directory or its Python is gone for good
                self._note(f"error: the process cannot be started in {self._directory}: {error}")
                self._settle(KeptState.FAILED)
                return
            if self._stopping.is_set() or code == 0:
                self._settle(KeptState.ENDED)
                return
            if code == _REJECTED and not self._ran_before:
                self._settle(KeptState.REJECTED)
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
        """Run the process to its end; return its exit code."""
        with self._lock:
            self._state = KeptState.STARTING
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # kept open: the process ends when it closes
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self._environment,
                cwd=self._directory,
            )
            if self._stopping.is_set():
                process.send_signal(signal.SIGTERM)
        with process:  # closes its pipes and waits for it
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
    """Send SIGTERM to this kept process when its keeper is gone."""
    if not os.environ.get(KEPT):
        return

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="keeper-watch", daemon=True).start()
