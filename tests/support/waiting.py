"""Waiting for what other threads and processes do."""

import threading
import time
from collections.abc import Callable

_THREADS_S = 60.0


def wait_until(
    condition: Callable[[], object], timeout_s: float = 60.0, *, poll_s: float = 0.005
) -> None:
    """Return once a condition holds; fail if it does not hold within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"the condition did not hold within {timeout_s:g} s"
        time.sleep(poll_s)


def threads_left_over(before: set[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that are not in `before`, once those that are ending have ended."""
    deadline = time.monotonic() + _THREADS_S
    while time.monotonic() < deadline:
        extra = [thread for thread in threading.enumerate() if thread not in before]
        if not extra:
            break
        time.sleep(0.01)
    return extra
