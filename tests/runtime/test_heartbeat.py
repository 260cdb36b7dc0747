"""A rank tells what it does and since when; the watchdog tells where it is stuck."""

import logging
import subprocess
import sys
import threading

import pytest

from runtime.heartbeat import ENDED, IDLE, Pulse, Watchdog
from tests.support.log_records import records_of

STUCK = """
import ctypes, sys
from runtime.heartbeat import Pulse, Watchdog
pulse = Pulse()
Watchdog(pulse, limit_s=0.4, errors=sys.stderr).start()
import time
pulse.at("verifying")
time.sleep(0.3)
def holds_the_interpreter():
    ctypes.PyDLL(None).usleep(2_500_000)
holds_the_interpreter()
"""


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_beat_tells_state_steps_and_age() -> None:
    hands = Hands()
    pulse = Pulse(hands)
    assert (pulse.beat().state, pulse.beat().num_steps) == ("starting", 0)
    pulse.at("prefill")
    hands.now_s = 2.0
    pulse.at("verifying")
    hands.now_s = 5.0
    beat = pulse.beat()
    assert (beat.state, beat.num_steps, beat.step_age_s) == ("verifying", 2, 3.0)


def test_a_step_that_takes_too_long_is_reported_once_with_all_stacks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hands, release = Hands(), threading.Event()

    def waits_for_the_other_ranks() -> None:
        release.wait(20)

    stuck = threading.Thread(target=waits_for_the_other_ranks, name="stuck one", daemon=True)
    stuck.start()
    pulse = Pulse(hands)
    watchdog = Watchdog(pulse, limit_s=10)
    with caplog.at_level(logging.ERROR):
        pulse.at("verifying")
        hands.now_s = 9.0
        watchdog.look()
        assert pulse.beat().stacks == ""
        hands.now_s = 11.0
        watchdog.look()
        watchdog.look()
        assert len(records_of(caplog, "paceline.pulse")) == 1
        assert "has been verifying for 11.0 s" in caplog.text
        assert "thread stuck one:" in pulse.beat().stacks
        assert "waits_for_the_other_ranks" in pulse.beat().stacks
        pulse.at(IDLE)
        hands.now_s = 30.0
        watchdog.look()
        assert len(records_of(caplog, "paceline.pulse")) == 2
        pulse.at(ENDED)
        hands.now_s = 60.0
        watchdog.look()
        assert len(records_of(caplog, "paceline.pulse")) == 2
    release.set()
    stuck.join(timeout=5)


def test_native_code_that_holds_the_interpreter_is_found_too() -> None:
    """No thread of ours runs then: the interpreter's own timer writes the stacks."""
    ran = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Timeout" in ran.stderr
    assert "holds_the_interpreter" in ran.stderr
