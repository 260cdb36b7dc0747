"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object], timeout_s: float = 60.0, *, poll_s: float = 0.005
) -> None:
    """Return once a condition holds; fail if it does not hold within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"the condition did not hold within {timeout_s:g} s"
        time.sleep(poll_s)
