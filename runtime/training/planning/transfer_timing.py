"""How fast vectors pass between the driver and a worker."""

from collections.abc import Callable

import numpy as np

from parallel.training.adamw import Vector
from runtime.clock import Clock

_SIZE = 1 << 23
"""Numbers of the vector that is sent: 32 MiB."""
_TRIES = 3


def bytes_per_s(send_back: Callable[[Vector], Vector], clock: Clock) -> float:
    """Return the bandwidth of the fastest of a few round trips.

    Args:
        send_back: sends a vector to another process, and returns the vector that it answers with.
        clock: times the trips.
    """
    vector = np.zeros(_SIZE, dtype=np.float32)
    send_back(vector[:1])  # the first call also waits for the process to start
    times = []
    for _ in range(_TRIES):
        start_s = clock.now_s()
        answer = send_back(vector)
        times.append(clock.now_s() - start_s)
        assert answer.size == vector.size
    return 2 * vector.nbytes / max(min(times), 1e-9)
