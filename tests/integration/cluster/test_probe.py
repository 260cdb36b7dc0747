"""Measurements between nodes over real sockets, here both on loopback."""

import socket
from collections.abc import Iterator

import pytest

from runtime.errors import ConfigError, PeerLost
from runtime.node.network_interfaces import address_on
from runtime.node.node_probe import ProbeServer, measure_pair

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
    with pytest.raises(PeerLost, match=f"{LOOPBACK}:{server.port} is not to be reached"):
        measure_pair(LOOPBACK, server.port, bytes(16))


def test_a_port_nobody_listens_on_is_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PeerLost, match=f"{LOOPBACK}:{port}"):
        measure_pair(LOOPBACK, port, bytes(16))


def test_an_interface_is_found_by_name_and_by_network() -> None:
    assert address_on("lo") == LOOPBACK
    assert address_on("127.0.0.0/8") == LOOPBACK
    with pytest.raises(ConfigError, match=r"no IPv4 address on .*interface=pl9: it has .*lo 127"):
        address_on("pl9")
    with pytest.raises(ConfigError, match="is no network"):
        address_on("10.0.0.0/99")
