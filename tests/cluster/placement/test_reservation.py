"""What keeps ranks off a node, as the reservation reads it from Ray."""

import pytest

from cluster.placement.reservation import _hindrance


@pytest.mark.parametrize(
    ("leaving", "free", "words"),
    [
        ({}, {"a": 1}, ""),
        ({"b": 0}, {"a": 1}, ""),
        ({}, {}, "is joining (it has not reported its resources yet)"),
        ({"a": 0}, {"a": 1}, "is leaving the cluster (it drains)"),
        ({"a": 99_000}, {"a": 1}, "is leaving the cluster (it drains)"),
        (
            {"a": 130_000},
            {"a": 1},
            "is leaving the cluster (it drains, gone in 30 s at the latest)",
        ),
    ],
)
def test_a_node_that_joins_or_leaves_is_no_place(
    leaving: dict[str, int], free: dict[str, object], words: str
) -> None:
    assert _hindrance("a", leaving, free, now_s=100.0) == words
