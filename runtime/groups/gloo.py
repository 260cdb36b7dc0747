"""Makes torch.distributed stores and process groups directly, without a process-wide default group.

A process may have many of them: its tensor-parallel group and its links, each with its own store.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # where torch types them

from runtime.errors import ConfigError, PeerError, PeerLost, PeerTimeout

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoreServer:
    """A listening store; it serves while this object is alive."""

    store: TCPStore
    host: str
    port: int


def listen_store(host: str, *, timeout_s: float) -> StoreServer:
    """Start a store that listens on `host` only, on a free port."""
    try:
        listener = socket.create_server((host, 0))
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error}") from error
    port: int = listener.getsockname()[1]
    store = TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),  # without it, the store listens on every interface
    )
    return StoreServer(store, host, port)


def connect_store(host: str, port: int, *, timeout_s: float) -> TCPStore:
    """Connect to a store; raises PeerTimeout if none answers within `timeout_s`."""
    limit = timedelta(seconds=timeout_s)
    try:
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=limit)
    except RuntimeError as error:  # all of torch.distributed's errors derive from it
        raise PeerTimeout(f"no store answered at {host}:{port} within {timeout_s:g} s") from error


def make_gloo(store: Store, name: str, *, rank: int, size: int, host: str, timeout_s: float) -> Any:
    """Connect a gloo process group whose ranks find each other in `store` under `name`.

    Args:
        store: shared by all ranks.
        name: names the group within the store.
        rank: this member.
        size: number of members.
        host: the store's host; it determines the network interface.
        timeout_s: deadline of the rendezvous and of each operation.

    Raises:
        PeerTimeout: the ranks did not connect in time.
    """
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # not in the stubs
    options._timeout = timedelta(seconds=timeout_s)
    options._threads = 1
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=_address_towards(host))]
    try:
        return dist.ProcessGroupGloo(PrefixStore(name, store), rank, size, options)
    except RuntimeError as error:
        raise PeerTimeout(
            f"the {size} ranks of {name} did not connect within {timeout_s:g} s: {error}"
        ) from error


def make_nccl(store: Store, name: str, *, rank: int, size: int, timeout_s: float) -> Any:
    """Make an NCCL process group on this process's current CUDA device.

    Raises:
        ConfigError: this build of torch has no NCCL or there is no CUDA device.
    """
    if not (dist.is_nccl_available() and torch.cuda.is_available()):
        raise ConfigError("the nccl backend needs a CUDA build of torch and a CUDA device")
    nccl: Any = getattr(dist, "ProcessGroupNCCL")  # noqa: B009  absent from CPU builds
    options = nccl.Options()
    options._timeout = timedelta(seconds=timeout_s)
    return nccl(PrefixStore(name, store), rank, size, options)


def translated(call: Callable[[], _T], *, peer: str, timeout_s: float) -> _T:
    """Run a torch.distributed call and translate its errors into ours, which name `peer`.

    Raises:
        PeerTimeout: the deadline of the process group passed.
        PeerLost: the connection broke.
    """
    try:
        return call()
    except RuntimeError as error:
        raise translate(str(error), peer=peer, timeout_s=timeout_s) from error


def translate(text: str, *, peer: str, timeout_s: float) -> PeerError:
    """Translate the text of an error of torch.distributed, whose errors have no types."""
    lowered = text.lower()
    if "timed out" in lowered or "timeout" in lowered:
        return PeerTimeout(f"{peer} did not answer within {timeout_s:g} s")
    return PeerLost(f"{peer} is gone ({text.splitlines()[0][:200] if text else 'no reason given'})")


def _address_towards(host: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing; the kernel picks the interface
        address: str = probe.getsockname()[0]
    return address
