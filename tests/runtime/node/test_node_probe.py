"""Measurements between nodes over real sockets, here both on loopback."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from parallel.group import SoloGroup
from runtime.errors import PeerLost
from runtime.groups.threads import ThreadGroup
from runtime.node.node_probe import ProbeServer, measure_all_reduce, measure_pair, read_node_facts

LOOPBACK = "127.0.0.1"


@pytest.fixture
def server() -> Iterator[ProbeServer]:
    probe = ProbeServer(LOOPBACK)
    yield probe
    probe.close()


def test_a_pair_is_measured(server: ProbeServer) -> None:
    times = measure_pair(LOOPBACK, server.port, server.word)
    assert times.round_trip_s > 0
    assert times.bytes_per_s > 1e6


def test_who_does_not_know_the_word_is_cut_off(server: ProbeServer) -> None:
    with pytest.raises(PeerLost, match=f"{LOOPBACK}:{server.port} is unreachable"):
        measure_pair(LOOPBACK, server.port, bytes(16))


def test_a_port_without_a_listener_is_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PeerLost, match=f"{LOOPBACK}:{port}"):
        measure_pair(LOOPBACK, port, bytes(16))


def test_sums_are_measured_on_all_ranks_at_once() -> None:
    members = ThreadGroup.make(2, 30.0)
    with ThreadPoolExecutor(2) as threads:
        for times in threads.map(measure_all_reduce, members):
            assert times.small_s > 0
            assert times.large_s > 0


def test_a_group_that_sums_wrongly_is_reported() -> None:
    class Deaf(SoloGroup):
        size = 3

    with pytest.raises(PeerLost, match="the sum over 3 nodes came out as 1"):
        measure_all_reduce(Deaf())


def test_a_node_describes_itself() -> None:
    facts = read_node_facts("2.60.0")
    assert dict(facts.versions)["ray"] == "2.60.0"
    assert facts.host == socket.gethostname()
    assert facts.num_cores >= 1
    assert facts.memory_bytes > 0
    assert LOOPBACK in [address for _, address in facts.interfaces]
