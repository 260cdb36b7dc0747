"""When a worker of a shared-seed run has been silent for too long."""

START_S = 120.0
"""Seconds that a worker may take to start, load its model and join."""


def is_silent(silent_s: float | None, age_s: float, lost_after_s: float) -> bool:
    """Return whether a worker is to be replaced.

    A worker that replaces another one shares its name, and so its silence, until it joins.

    Args:
        silent_s: seconds since a worker of this name joined or sent bytes; None if none has joined.
        age_s: seconds since this worker was started.
        lost_after_s: seconds that a worker which has joined may be silent.
    """
    if silent_s is None:
        return False
    has_joined = silent_s < age_s
    if has_joined:
        return silent_s > lost_after_s
    return age_s > max(lost_after_s, START_S)
