"""Seconds of messages and collectives against sums by hand."""

import pytest

from parallel.simulation.network import Fabric, Line

LINE = Line(latency_s=1e-5, bytes_per_s=1e9)


def test_a_message_takes_its_latency_and_its_bytes() -> None:
    assert LINE.send_s(1000) == pytest.approx(1.1e-5)
    assert Line().send_s(1e12) == 0


def test_small_all_reduces_go_by_trees_and_large_ones_by_rings() -> None:
    assert LINE.all_reduce_s(8, 1) == 0
    assert LINE.all_reduce_s(1, 16) == pytest.approx(2 * 4 * 1e-5, rel=1e-3)
    assert LINE.all_reduce_s(1e9, 16) == pytest.approx(2 * 15 / 16, rel=1e-3)
    assert LINE.all_gather_s(1e8, 4) == pytest.approx(0.3, rel=1e-3)
    assert LINE.all_gather_s(1, 16) == pytest.approx(4e-5, rel=1e-2)


def test_a_group_on_several_nodes_pays_for_both_levels() -> None:
    slow = Line(latency_s=1e-4, bytes_per_s=1e8)
    fabric = Fabric(inside=LINE, between=slow, per_node=4)
    assert fabric.nodes_of(9) == 3
    assert fabric.all_reduce_s(1e6, 4) == LINE.all_reduce_s(1e6, 4)
    both_s = LINE.all_reduce_s(1e6, 4) + slow.all_reduce_s(2.5e5, 2)
    assert fabric.all_reduce_s(1e6, 8) == pytest.approx(both_s)
    gathered_s = slow.all_gather_s(1e6, 2) + LINE.all_gather_s(2e6, 4)
    assert fabric.all_gather_s(1e6, 8) == pytest.approx(gathered_s)
