"""The addresses of this machine's network interfaces."""

import ipaddress
import socket

import psutil

from runtime.errors import ConfigError


def address_on(interface: str) -> str:
    """Return this machine's IPv4 address on an interface, or in a network such as 10.0.0.0/8.

    Raises:
        ConfigError: there is none; names those that exist.
    """
    addresses = ipv4_addresses()
    if "/" in interface:
        try:
            network = ipaddress.ip_network(interface, strict=False)
        except ValueError as error:
            raise ConfigError(f"`interface` is {interface!r}: {error}") from error
        found = [a for _, a in addresses if ipaddress.ip_address(a) in network]
    else:
        found = [address for name, address in addresses if name == interface]
    if not found:
        there = ", ".join(f"{name} {address}" for name, address in addresses)
        raise ConfigError(
            f"`interface` is {interface!r}, on which {socket.gethostname()} has no IPv4 address: "
            f"it has {there}"
        )
    return found[0]


def ipv4_addresses() -> list[tuple[str, str]]:
    """Return the name and the address of each interface that is up."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    return [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET and name in up
    ]
