"""Addresses: their form, what stays on this machine, and ports that cannot be opened."""

import socket

import pytest

from runtime.channels.addresses import (
    check_free,
    check_target,
    is_loopback,
    parse_address,
    stays_here,
)
from runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("[::1]:0", ("[::1]", 0)),
        ("some.host:65535", ("some.host", 65535)),
    ],
)
def test_an_address_has_a_host_and_a_port(text: str, parts: tuple[str, int]) -> None:
    assert parse_address(text, "listen") == parts


@pytest.mark.parametrize(
    "text",
    [
        *("host", ":50051", "host:", "host:x", "host:70000", "host:-1", "::1:50051", "ho st:1", ""),
        *("host:\u0665", "http://host:80", "host:50051/", "host:50051\n", "host:" + "9" * 5000),
    ],
)
def test_another_form_is_rejected_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^listen is "):
        parse_address(text, "listen")


@pytest.mark.parametrize("target", ["dns:///host:50051", "unix:/tmp/socket", "host:50051"])
def test_what_grpc_can_reach_is_a_target(target: str) -> None:
    assert check_target(target) == target


@pytest.mark.parametrize("target", ["host", "http://host:80", "host:0", None, 50051])
def test_what_grpc_cannot_reach_is_rejected(target: object) -> None:
    with pytest.raises(ConfigError, match=r"^address is "):
        check_target(target)


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("ipv6:[::1]:1", True),
        ("dns:///localhost:1", True),
        ("unix:/tmp/socket", True),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
        ("dns:///example.org:1", False),
    ],
)
def test_loopback_differs_from_other_machines(target: str, *, stays: bool) -> None:
    assert stays_here(target) == stays


def test_a_server_on_all_addresses_is_not_on_loopback_alone() -> None:
    assert is_loopback("127.0.0.1:1")
    assert not is_loopback("0.0.0.0:1")
    assert not is_loopback("[::]:1")


def test_a_free_port_passes_and_a_taken_one_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for tried in (address, address.replace("127.0.0.1", "0.0.0.0")):
            with pytest.raises(ConfigError, match=r"^--listen is .*: the port is in use"):
                check_free(tried, "--listen")
    check_free(address, "--listen")
    check_free("127.0.0.1:0", "--listen")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("192.0.2.1:0", "this machine cannot listen there"),  # TEST-NET-1 is no machine's
        ("no-such-host.invalid:0", "the host cannot be found"),
        ("a" * 70 + ".invalid:0", "the host cannot be found"),
    ],
)
def test_a_host_that_is_not_of_this_machine_is_rejected(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_free(address, "listen")
