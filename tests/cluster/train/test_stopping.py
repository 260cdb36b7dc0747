"""The first signal asks, the second ends at once, and a hang-up is one of them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.train.stopping import StopEvents, StopSignals, stop_signals

ROOT = Path(__file__).parents[2]
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def ends() -> list[int]:
    """Exit codes with which the process would have been ended."""
    return []


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put the handlers back that a test changes; `nohup` around the tests changes nothing."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_asks_and_the_second_unwinds(number: int, ends: list[int]) -> None:
    calls: list[str] = []
    with StopSignals(lambda: calls.append("asked"), end=ends.append) as signals:
        os.kill(os.getpid(), number)
        assert signals.asked
        assert calls == ["asked"]
        assert not ends
        with pytest.raises(SystemExit) as stopped:
            os.kill(os.getpid(), number)
    assert stopped.value.code == 128 + number
    assert ends == [128 + number]
    assert calls == ["asked"]


@pytest.mark.parametrize("number", NUMBERS)
def test_on_a_loop_the_second_signal_cuts(number: int, ends: list[int]) -> None:
    cuts: list[bool] = []

    async def run() -> None:
        events = StopEvents(lambda: cuts.append(True), end=ends.append)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(events.asked.wait(), 30)
        assert not cuts
        os.kill(os.getpid(), number)
        while not cuts:
            await asyncio.sleep(0)
        assert ends == [128 + number]

    asyncio.run(run())


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in stop_signals()
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.asked


def test_other_threads_leave_the_signals_alone() -> None:
    found: list[Any] = []

    def enter() -> None:
        with StopSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


HANGS = """
import os, signal, time
from cluster.train import stopping
stopping._UNWIND_S = 0.2
try:
    with stopping.StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
finally:
    time.sleep(600)  # as an end that waits for what never answers
"""


def test_an_end_that_hangs_is_cut() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 128 + signal.SIGINT
