"""Hosts of their own on this machine: network namespaces behind a switch that delays and drops."""

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

_SWITCH = Path(__file__).with_name("slow_switch.py")
_SET_ETHTOOL = 0x8946
_OFFLOADS = (0x17, 0x1F, 0x24)  # checksums, TCP segments, segments: a raw frame must be whole
_WAIT_S = 20


class Namespaces:
    """Made on entry and removed on exit; host n has the address 10.77.N.n+1, N by process id."""

    def __init__(self, num_hosts: int, *, delay_s: float, loss: float) -> None:
        self._names = [f"pl{os.getpid()}h{n}" for n in range(num_hosts)]
        self._switch_name = f"pl{os.getpid()}s"
        self._delay_s = delay_s
        self._loss = loss
        self._switch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Namespaces":
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._remove()

    def host(self, number: int) -> str:
        """Return a host's address."""
        return f"10.77.{os.getpid() % 250}.{number + 1}"

    def prefix(self, number: int) -> list[str]:
        """Return what runs a command on a host."""
        return _within(self._names[number])

    def _make(self) -> None:
        for name in (*self._names, self._switch_name):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for number, name in enumerate(self._names):
            port = f"port{number}"
            pair = ("type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self._switch_name, "link", "add", port, *pair)
            _ip("-n", name, "addr", "add", f"{self.host(number)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", self._switch_name, "link", "set", port, "up")
            subprocess.run(
                [*self.prefix(number), sys.executable, __file__, "eth0"],
                check=True,
                timeout=_WAIT_S,
            )
        ports = [f"port{number}" for number in range(len(self._names))]
        settings = [str(self._delay_s), str(self._loss), "7"]
        self._switch = subprocess.Popen(
            [*_within(self._switch_name), sys.executable, str(_SWITCH), *settings, *ports],
            stdin=subprocess.PIPE,
        )

    def _remove(self) -> None:
        if self._switch is not None:
            assert self._switch.stdin is not None
            self._switch.stdin.close()
            self._switch.wait(timeout=_WAIT_S)
        for name in (*self._names, self._switch_name):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def need_namespaces() -> None:
    """Skip the test where namespaces cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the ip command of iproute2")
    name = f"pl{os.getpid()}try"
    tried = subprocess.run(
        ["ip", "netns", "add", name], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {tried.stderr.strip()}")
    subprocess.run(["ip", "netns", "del", name], check=False)


def _within(name: str) -> list[str]:
    return ["ip", "netns", "exec", name]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=_WAIT_S)


def _turn_offloads_off(interface: str) -> None:
    """What `ethtool -K INTERFACE tx off tso off gso off` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, _SET_ETHTOOL, request.ljust(40, b"\0"))


if __name__ == "__main__":
    _turn_offloads_off(sys.argv[1])
