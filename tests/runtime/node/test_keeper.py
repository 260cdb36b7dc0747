"""A kept process is restarted when it dies, within a budget, and ends with its keeper."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from runtime.node.keeper import KeptState, KeptStatus, ProcessKeeper
from runtime.restarts import RestartLimits

WAITS = "import time; print('ready: toy on 127.0.0.1:1', flush=True); time.sleep(600)"


def keeper(
    script: str,
    *,
    stop_s: float = 20.0,
    most: int = 3,
    ran_before: bool = False,
    directory: str = "/",
) -> ProcessKeeper:
    return ProcessKeeper(
        [sys.executable, "-c", script],
        environment=os.environ,
        directory=directory,
        limits=RestartLimits(most=most, first_pause_s=0.01),
        stop_s=stop_s,
        ran_before=ran_before,
    )


def await_status(kept: ProcessKeeper, wanted: Callable[[KeptStatus], bool]) -> KeptStatus:
    deadline_s = time.monotonic() + 20
    while not wanted(status := kept.status()):
        assert time.monotonic() < deadline_s, status
        time.sleep(0.01)
    return status


def test_what_is_killed_is_started_again_until_it_is_stopped() -> None:
    kept = keeper(WAITS)
    for restarts in range(2):
        status = await_status(kept, lambda s: s.state is KeptState.READY)
        assert status.restarts == restarts
        assert status.ready_line == "ready: toy on 127.0.0.1:1"
        assert status.pid is not None
        os.kill(status.pid, signal.SIGKILL)
        await_status(kept, lambda s, old=status.pid: s.pid != old)  # type: ignore[misc]
    status = await_status(kept, lambda s: s.state is KeptState.READY)
    assert (status.restarts, status.exit_code) == (2, -signal.SIGKILL)
    last = psutil.Process(status.pid)
    ended = kept.stop()
    assert (ended.state, ended.pid, ended.up_s) == (KeptState.ENDED, None, 0.0)
    assert not last.is_running()


def test_what_rejects_its_options_is_not_started_again() -> None:
    kept = keeper("print('error: --tp is 3'); raise SystemExit(2)")
    status = await_status(kept, lambda s: s.state.is_final)
    assert (status.state, status.exit_code, status.restarts) == (KeptState.REJECTED, 2, 0)
    assert status.lines == ("error: --tp is 3",)


def test_a_new_keepers_process_waits_for_its_predecessors_place(tmp_path: Path) -> None:
    script = f"from pathlib import Path; Path({str(tmp_path / 'held')!r}).rmdir(); {WAITS}"
    blocked = f"try:\n    exec({script!r})\nexcept OSError:\n    raise SystemExit(2)\n"
    kept = keeper(blocked, most=1000, ran_before=True)
    await_status(kept, lambda s: s.exit_code == 2)
    (tmp_path / "held").mkdir()
    assert await_status(kept, lambda s: s.state is KeptState.READY).restarts > 0
    assert kept.stop().state is KeptState.ENDED


def test_what_was_ready_may_find_its_place_taken_for_a_while(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
runs = Path({str(tmp_path / "runs")!r})
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
if len(runs.read_text()) == 2:
    raise SystemExit(2)
print("ready: toy", flush=True)
raise SystemExit(1 if len(runs.read_text()) == 1 else 0)
"""
    status = await_status(keeper(script), lambda s: s.state.is_final)
    assert (status.state, status.exit_code, status.restarts) == (KeptState.ENDED, 0, 2)


def test_what_fails_again_and_again_stays_down() -> None:
    status = await_status(keeper("raise SystemExit(1)", most=2), lambda s: s.state.is_final)
    assert (status.state, status.exit_code, status.restarts) == (KeptState.FAILED, 1, 2)


def test_a_process_whose_directory_is_gone_has_failed(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    kept = keeper(WAITS, directory=str(place))
    pid = await_status(kept, lambda s: s.state is KeptState.READY).pid
    assert pid is not None
    place.rmdir()
    os.kill(pid, signal.SIGKILL)
    status = await_status(kept, lambda s: s.state.is_final)
    assert (status.state, status.pid, status.ready_line) == (KeptState.FAILED, None, "")
    assert (status.exit_code, status.up_s) == (-signal.SIGKILL, 0.0)
    with pytest.raises(FileNotFoundError) as gone:
        os.chdir(place)
    assert status.lines[-1] == (f"error: the process cannot be started in {place}: {gone.value}")
    assert kept.stop().state is KeptState.FAILED


def test_a_program_that_is_not_there_has_failed() -> None:
    kept = ProcessKeeper(
        ["/nowhere/python"], environment={}, directory="/", limits=RestartLimits(), stop_s=1.0
    )
    status = await_status(kept, lambda s: s.state.is_final)
    assert (status.state, status.exit_code) == (KeptState.FAILED, None)
    assert "No such file or directory: '/nowhere/python'" in status.lines[-1]


def test_what_does_not_end_in_time_is_killed() -> None:
    kept = keeper("import signal; signal.signal(15, signal.SIG_IGN)\n" + WAITS, stop_s=0.2)
    await_status(kept, lambda s: s.state is KeptState.READY)
    status = kept.stop()
    assert (status.state, status.exit_code) == (KeptState.ENDED, -signal.SIGKILL)


def test_a_process_ends_with_its_keeper() -> None:
    watched = f"from runtime.node.keeper import end_with_keeper; end_with_keeper()\n{WAITS}"
    outer = f"""
import os, sys, time
from runtime.node.keeper import ProcessKeeper
from runtime.restarts import RestartLimits
kept = ProcessKeeper([sys.executable, "-c", {watched!r}], environment=os.environ, directory=".",
                     limits=RestartLimits(), stop_s=5.0)
while not kept.status().ready_line:
    time.sleep(0.01)
print(kept.status().pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as over:
        assert over.stdout is not None
        kept = psutil.Process(int(over.stdout.readline()))
        over.kill()
    psutil.wait_procs([kept], timeout=20)
    assert not kept.is_running()
