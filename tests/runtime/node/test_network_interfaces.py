"""Addresses of this machine's interfaces, by name and by network."""

import pytest

from runtime.errors import ConfigError
from runtime.node import network_interfaces
from runtime.node.network_interfaces import address_on, ipv4_addresses

FOUND = [("lo", "127.0.0.1"), ("eth0", "10.0.3.7"), ("eth1", "192.168.1.2")]


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this machine three interfaces."""
    monkeypatch.setattr(network_interfaces, "ipv4_addresses", lambda: FOUND)


def test_loopback_is_among_the_interfaces_that_are_up() -> None:
    assert "127.0.0.1" in [address for _, address in ipv4_addresses()]


@pytest.mark.usefixtures("three")
def test_an_interface_is_named_or_its_network_is() -> None:
    assert address_on("eth1") == "192.168.1.2"
    assert address_on("10.0.0.0/8") == "10.0.3.7"
    assert address_on("10.0.3.99/24") == "10.0.3.7"  # any address within the network names it


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("interface", ["wlan0", "172.16.0.0/12"])
def test_an_interface_that_is_not_there_is_answered_with_those_that_are(interface: str) -> None:
    with pytest.raises(
        ConfigError, match=r"lo 127\.0\.0\.1, eth0 10\.0\.3\.7, eth1 192\.168\.1\.2"
    ):
        address_on(interface)


@pytest.mark.usefixtures("three")
def test_a_malformed_network_is_named() -> None:
    with pytest.raises(ConfigError, match=r"10\.0\.0\.0/99"):
        address_on("10.0.0.0/99")
