"""Ranks of one node share memory; others meet at the address of the first."""

import pytest

from runtime.groups.meeting import Home, offer_between
from runtime.groups.rendezvous import GroupSpec
from runtime.groups.shared_memory import supported

HERE, THERE = Home("a", "127.0.0.1"), Home("b", "192.0.2.7")


def offered(homes: list[Home], backend: str) -> GroupSpec:
    spec = offer_between(homes, role="worker", backend=backend, device="cpu", timeout_s=5.0).spec
    assert (spec.role, spec.size, spec.timeout_s) == ("worker", len(homes), 5.0)
    return spec


def test_ranks_of_one_node_share_memory_where_the_machine_can() -> None:
    assert offered([HERE, HERE], "auto").backend == ("shm" if supported() else "gloo")


def test_a_backend_that_is_named_is_taken() -> None:
    spec = offered([HERE, HERE], "gloo")
    assert (spec.backend, spec.host) == ("gloo", "127.0.0.1")


def test_ranks_of_several_nodes_meet_at_the_first_one() -> None:
    spec = offered([HERE, THERE], "auto")
    assert (spec.backend, spec.host) == ("gloo", HERE.address)


@pytest.mark.parametrize("backend", ["auto", "gloo"])
def test_one_rank_alone_meets_no_other(backend: str) -> None:
    assert offered([THERE], backend).backend == "solo"
