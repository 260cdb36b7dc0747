"""Facts of one node and the speed of its connections, for `cluster check`."""

import hmac
import platform
import secrets
import socket
import statistics
import sys
import threading
import time
from dataclasses import dataclass

import torch

from parallel.group import Group
from runtime.errors import PeerLost, PeerTimeout
from runtime.node.cores import usable_cores
from runtime.node.network_interfaces import ipv4_addresses
from runtime.rank.memory_check import available_bytes
from runtime.version import package_version

_WORD_BYTES = 16
_PING_BYTES = 64
_PINGS = 20
_CHUNK_BYTES = 1 << 20
_FLOW_S = 0.5
_WAIT_S = 15.0
_REDUCES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """The facts of a node, read by a process on it."""

    host: str
    versions: tuple[tuple[str, str], ...]
    """Name and version of everything that must be the same on all nodes."""
    num_cores: int
    memory_bytes: int
    """Available memory, within the container's limit."""
    gpus: tuple[str, ...]
    interfaces: tuple[tuple[str, str], ...]
    """Name and IPv4 address of each interface."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTimes:
    """The speed of a connection between two nodes."""

    round_trip_s: float
    """Median round trip of 64 bytes."""
    bytes_per_s: float
    """Throughput of one stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceTimes:
    """Medians of all_reduce over all nodes, by payload."""

    small_s: float
    """1 KiB."""
    large_s: float
    """1 MiB."""


def read_node_facts(ray_version: str) -> NodeFacts:
    """Return the facts of this process's node."""
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return NodeFacts(
        host=socket.gethostname(),
        versions=(
            ("python", platform.python_version()),
            ("ray", ray_version),
            ("torch", torch.__version__),
            ("paceline", package_version()),
            ("byte order", sys.byteorder),
        ),
        num_cores=usable_cores(),
        memory_bytes=available_bytes(),
        gpus=tuple(gpus),
        interfaces=tuple(ipv4_addresses()),
    )


class ProbeServer:
    """Answers other nodes' measurements until closed; disconnects clients that do not send its
    token."""

    def __init__(self, host: str) -> None:
        self.word = secrets.token_bytes(_WORD_BYTES)
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_WAIT_S)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_WAIT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                if not hmac.compare_digest(_read(connection, _WORD_BYTES), self.word):
                    return
                for _ in range(_PINGS):
                    connection.sendall(_read(connection, _PING_BYTES))
                num_bytes = 0
                buffer = bytearray(_CHUNK_BYTES)
                while count := connection.recv_into(buffer):
                    num_bytes += count
                connection.sendall(num_bytes.to_bytes(8, "little"))
            except OSError:
                return  # the peer reports it


def measure_pair(host: str, port: int, word: bytes) -> PairTimes:
    """Measure round trip and bandwidth to a `ProbeServer`; blocks for a second or two.

    Raises:
        PeerTimeout: nothing answers there, as behind a firewall.
        PeerLost: it rejected or closed the connection.
    """
    try:
        with socket.create_connection((host, port), timeout=_WAIT_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(word)
            return PairTimes(round_trip_s=_ping(connection), bytes_per_s=_flow(connection))
    except TimeoutError as error:
        raise PeerTimeout(f"{host}:{port} did not answer within {_WAIT_S:g} s") from error
    except OSError as error:
        raise PeerLost(f"{host}:{port} is unreachable: {error}") from error


def measure_all_reduce(group: Group) -> ReduceTimes:
    """Measure sums over a group; all ranks call this at the same time."""
    return ReduceTimes(
        small_s=_reduce(group, torch.ones(1 << 8)), large_s=_reduce(group, torch.ones(1 << 18))
    )


def _reduce(group: Group, tensor: torch.Tensor) -> float:
    times = []
    for _ in range(_REDUCES):
        start_s = time.perf_counter()
        total = group.all_reduce(tensor.clone())
        times.append(time.perf_counter() - start_s)
        if float(total[0]) != group.size:
            raise PeerLost(f"the sum over {group.size} nodes came out as {float(total[0]):g}")
    return statistics.median(times)


def _ping(connection: socket.socket) -> float:
    times = []
    for _ in range(_PINGS):
        start_s = time.perf_counter()
        connection.sendall(bytes(_PING_BYTES))
        _read(connection, _PING_BYTES)
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def _flow(connection: socket.socket) -> float:
    """Return the bytes per second of one stream, counted by the receiver."""
    chunk = bytes(_CHUNK_BYTES)
    start_s = time.perf_counter()
    while time.perf_counter() - start_s < _FLOW_S:
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)
    arrived = int.from_bytes(_read(connection, 8), "little")
    return arrived / (time.perf_counter() - start_s)


def _read(connection: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        part = connection.recv(num_bytes - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return data
