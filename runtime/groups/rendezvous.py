"""Rendezvous of the ranks of a group: rank 0 offers it, the others join.

A `GroupSpec` has plain fields, so that Ray or a command line can carry it.
"""

from dataclasses import dataclass

from parallel.group import Group, SoloGroup
from runtime.errors import ConfigError
from runtime.groups.gloo import StoreServer, connect_store, listen_store
from runtime.groups.proof import new_secret
from runtime.groups.shared_memory import SharedMemoryGroup, new_name, supported
from runtime.groups.torch_dist import TorchGroup

BACKENDS = ("solo", "shm", "gloo", "nccl")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """How the ranks of one group find each other."""

    backend: str
    """"solo", "shm" (one host, CPU), "gloo" or "nccl"."""
    role: str
    size: int
    timeout_s: float
    """Deadline of the rendezvous and of every wait."""
    name: str = ""
    """The unguessable name of the shared file ("shm")."""
    host: str = ""
    """Address of rank 0's store ("gloo", "nccl")."""
    port: int = 0
    secret: str = ""
    """The secret whose knowledge the ranks prove to each other ("gloo", "nccl")."""

    def __post_init__(self) -> None:
        """Reject fields of which no group can be made."""
        if self.backend not in BACKENDS:
            raise ConfigError(f"group backend is {self.backend!r}: it must be one of {BACKENDS}")
        if self.size < 1 or (self.backend == "solo" and self.size != 1):
            raise ConfigError(f"a {self.backend} group cannot have {self.size} ranks")
        if self.timeout_s <= 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}: it must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOffer:
    """A group before its ranks join: the spec for the other ranks, and rank 0's store."""

    spec: GroupSpec
    server: StoreServer | None = None
    """None for backends that need no store."""

    def join(self) -> Group:
        """Return rank 0's member, which keeps the store alive; blocks until all have joined."""
        return _join(self.spec, 0, keep=self.server)


def offer_group(
    role: str, size: int, *, backend: str, timeout_s: float, host: str = "127.0.0.1"
) -> GroupOffer:
    """Prepare a group in rank 0's process; `join` it there and send `spec` to the others.

    A group of one is always "solo". The store listens only on `host`: pass an address that the
    other hosts can reach.
    """
    if size == 1:
        return GroupOffer(spec=GroupSpec(backend="solo", role=role, size=1, timeout_s=timeout_s))
    if backend == "shm":
        name = new_name()
        spec = GroupSpec(backend=backend, role=role, size=size, timeout_s=timeout_s, name=name)
        return GroupOffer(spec=spec)
    GroupSpec(backend=backend, role=role, size=size, timeout_s=timeout_s)  # reject before listening
    server = listen_store(host, timeout_s=timeout_s)
    spec = GroupSpec(
        backend=backend,
        role=role,
        size=size,
        timeout_s=timeout_s,
        host=host,
        port=server.port,
        secret=new_secret(),
    )
    return GroupOffer(spec=spec, server=server)


def join_group(spec: GroupSpec, rank: int) -> Group:
    """Join the group as `rank`; blocks until all ranks have, at most about `spec.timeout_s`.

    Raises:
        PeerTimeout: a rank did not join in time.
        PeerLost: a rank died before all had joined.
        ProtocolError: a process that joined does not know the group's secret.
        ConfigError: this machine cannot run the backend.
    """
    return _join(spec, rank, keep=None)


def choose_backend(device: str, *, same_host: bool) -> str:
    """Return the fastest backend for a group on `device` ("cpu", "cuda" or "cuda:1")."""
    if device.startswith("cuda"):
        return "nccl"
    return "shm" if same_host and supported() else "gloo"


def _join(spec: GroupSpec, rank: int, *, keep: StoreServer | None) -> Group:
    if not 0 <= rank < spec.size:
        raise ConfigError(f"rank {rank} is not in a {spec.role} group of {spec.size}")
    if spec.backend == "solo":
        return SoloGroup()
    if spec.backend == "shm":
        if not supported():
            raise ConfigError("the shm backend needs Linux on x86-64: use gloo")
        if rank == 0:
            return SharedMemoryGroup.create(
                spec.name, spec.size, timeout_s=spec.timeout_s, role=spec.role
            )
        return SharedMemoryGroup.attach(
            spec.name, rank, spec.size, timeout_s=spec.timeout_s, role=spec.role
        )
    return TorchGroup.connect(
        connect_store(spec.host, spec.port, timeout_s=spec.timeout_s),
        backend=spec.backend,
        role=spec.role,
        rank=rank,
        size=spec.size,
        host=spec.host,
        timeout_s=spec.timeout_s,
        secret=spec.secret,
        keep=keep,
    )
