"""Measuring a link to a peer that only echoes."""

from runtime.node.echo import measure_memory


def test_a_link_between_threads_is_measured() -> None:
    trips = measure_memory(20, 0.0)
    assert trips.count == 20
    assert 0 < trips.p50_s <= trips.p99_s
