"""The bandwidth is that of the fastest round trip, both ways."""

import pytest

from parallel.training.adamw import Vector
from runtime.clock import ManualClock
from runtime.training.planning.transfer_timing import bytes_per_s


def test_the_first_call_and_slow_trips_do_not_count() -> None:
    clock, waits = ManualClock(), [90.0, 4.0, 2.0, 8.0]
    sizes: list[int] = []

    def send_back(vector: Vector) -> Vector:
        sizes.append(vector.nbytes)
        clock.advance(waits.pop(0))
        return vector

    found = bytes_per_s(send_back, clock)
    assert found == pytest.approx(2 * sizes[-1] / 2.0)
    assert sizes[0] == 4
    assert not waits
