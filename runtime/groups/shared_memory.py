"""A group of processes on one host that exchange CPU tensors through one shared file.

Every rank owns two slots and one flag. An exchange is: write my slot, raise my flag to the number
of the exchange, wait until every flag has reached it, read all slots. A rank that has raised its
flag to n + 1 has finished reading exchange n, so exchange n + 2 may reuse n's slots and one wait
an exchange is enough.

Memory order: data is written before the flag and read after it. Python has no memory fences;
x86-64's total store order makes them unnecessary, and `supported` rejects other machines.
"""

import contextlib
import mmap
import os
import platform
import secrets
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from runtime.errors import ConfigError, PeerLost, PeerTimeout, ShapeError
from runtime.groups.liveness import ProcessIdentity
from runtime.groups.summing import sum_into

DEFAULT_SLOT_BYTES = 1 << 20
MAGIC = 0x50414345_4C494E45
FOLDER = Path("/dev/shm")
MAX_VIEWS = 512

_HEADER_WORDS = 8  # magic, size, slot_bytes: written by rank 0, magic last
_RANK_WORDS = 16  # two cache lines a rank, so that no two ranks write to one line
_FLAG, _CLOSED, _PID, _STARTED, _TAG = 0, 1, 2, 3, 4  # _TAG holds one word for each slot
_LENGTH = struct.Struct("<q")
_GATHER, _REDUCE, _BYTES = 1, 2, 3

_SPINS = 50  # polls of the flag before the first yield: about 5 us
_YIELD_S = 0.005  # then yield the core between polls for this long, then sleep
_SHORTEST_SLEEP_S = 50e-6
_LONGEST_SLEEP_S = 0.002  # an idle follower uses about 1 % of a core
_LIVENESS_S = 0.5


def supported() -> bool:
    """Return whether this machine can run the group: Linux on x86-64 with /dev/shm."""
    is_tso = platform.system() == "Linux" and platform.machine() == "x86_64"
    return is_tso and FOLDER.is_dir()


def new_name() -> str:
    """Return an unguessable name for one group's file."""
    return f"paceline-{secrets.token_hex(16)}"


class SharedMemoryGroup:
    """The ranks of one role on one host; one thread of each process may use it."""

    def __init__(
        self, memory: mmap.mmap, *, rank: int, size: int, timeout_s: float, role: str
    ) -> None:
        self.rank = rank
        self.size = size
        self._timeout_s = timeout_s
        self._role = role
        self._memory = memory
        self._words = memoryview(memory).cast("q")
        self._slot_bytes = self._words[2]
        self._op = 0
        self._bases = [_HEADER_WORDS + other * _RANK_WORDS for other in range(size)]
        self._my_flag = self._bases[rank] + _FLAG
        self._peer_flags = [self._bases[other] + _FLAG for other in range(size) if other != rank]
        self._views: dict[tuple[torch.dtype, torch.Size, int], list[Tensor]] = {}
        self._is_closed = False

    @classmethod
    def create(
        cls,
        name: str,
        size: int,
        *,
        timeout_s: float,
        role: str,
        slot_bytes: int = DEFAULT_SLOT_BYTES,
    ) -> "SharedMemoryGroup":
        """Create the file, wait until all ranks have attached and return rank 0's member.

        Raises:
            ConfigError: the file already exists or /dev/shm has no space for it.
            PeerTimeout: a rank did not attach within `timeout_s`; the file is removed.
        """
        if slot_bytes < 64 or slot_bytes % 64:
            raise ConfigError(f"slot_bytes is {slot_bytes}: it must be a positive multiple of 64")
        path = FOLDER / name
        total = _total_bytes(size, slot_bytes)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot create {path}: {error.strerror}") from error
        try:
            try:
                os.posix_fallocate(fd, 0, total)  # a full /dev/shm is an error here, not a SIGBUS
                memory = mmap.mmap(fd, total)
            except OSError as error:
                raise ConfigError(
                    f"/dev/shm has no {total} bytes for the {role} group: {error.strerror}; "
                    "enlarge it (docker: --shm-size) or use the gloo backend"
                ) from error
            finally:
                os.close(fd)
            struct.pack_into("<qq", memory, 8, size, slot_bytes)
            struct.pack_into("<q", memory, 0, MAGIC)
            group = cls(memory, rank=0, size=size, timeout_s=timeout_s, role=role)
            group._meet()
        finally:
            path.unlink(missing_ok=True)
        return group

    @classmethod
    def attach(
        cls, name: str, rank: int, size: int, *, timeout_s: float, role: str
    ) -> "SharedMemoryGroup":
        """Wait for rank 0's file and for all ranks, and return this rank's member.

        Raises:
            PeerTimeout: rank 0 or another rank did not attach within `timeout_s`.
            ConfigError: the file belongs to another user or was created for another size.
        """
        if not 0 < rank < size:
            raise ConfigError(f"rank {rank} cannot attach to a {role} group of {size}")
        deadline = time.monotonic() + timeout_s
        while (memory := _open_ready(FOLDER / name)) is None:
            if time.monotonic() > deadline:
                raise PeerTimeout(f"{role} rank 0 did not offer its group within {timeout_s:g} s")
            time.sleep(0.002)
        (made_for,) = struct.unpack_from("<q", memory, 8)
        if made_for != size:
            raise ConfigError(f"the {role} group has {made_for} ranks, rank {rank} expects {size}")
        group = cls(memory, rank=rank, size=size, timeout_s=timeout_s, role=role)
        group._meet()
        return group

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks in rank order, in place; 16-bit floats are summed in float32."""
        data = tensor.detach() if tensor.requires_grad else tensor
        if data.nbytes <= self._slot_bytes and data.is_contiguous():  # as always while decoding
            sum_into(data, self._exchange(data, _REDUCE))
            return tensor
        flat = data.reshape(-1)
        for part in self._parts(flat):
            sum_into(part, self._exchange(part, _REDUCE))
        if flat.data_ptr() != data.data_ptr():
            data.copy_(flat.view(data.shape))
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return [size, *tensor.shape] in rank order."""
        flat = tensor.detach().reshape(-1)
        out = torch.empty((self.size, flat.numel()), dtype=flat.dtype)
        start = 0
        for part in self._parts(flat):
            end = start + part.numel()
            for row, slot in zip(out, self._exchange(part, _GATHER), strict=True):
                row[start:end].copy_(slot)
            start = end
        return out.view(self.size, *tensor.shape)

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        """Return rank 0's payload; waits up to the group's deadline for each part."""
        assert (payload is not None) == (self.rank == 0)
        if payload is None:
            return self._receive_bytes()
        room = self._slot_bytes - _LENGTH.size
        view = memoryview(payload)
        for start in range(0, max(len(payload), 1), room):
            offset = self._next_slot()
            part = view[start : start + room]
            _LENGTH.pack_into(self._memory, offset, len(payload))
            offset += _LENGTH.size
            self._memory[offset : offset + len(part)] = part
            self._publish(_BYTES, 0)
        return payload

    def close(self) -> None:
        """Mark this rank as closed, so that peers raise PeerLost, and release the memory."""
        if self._is_closed:
            return
        self._is_closed = True
        self._words[self._bases[self.rank] + _CLOSED] = 1
        self._views.clear()
        self._words.release()
        with contextlib.suppress(BufferError):  # a live view keeps the mapping
            self._memory.close()

    def _receive_bytes(self) -> bytes:
        room = self._slot_bytes - _LENGTH.size
        parts: list[bytes] = []
        missing = 0
        while True:
            self._next_slot()
            self._publish(_BYTES, 0)
            offset = self._slot_offset(0)
            if not parts:
                (missing,) = _LENGTH.unpack_from(self._memory, offset)
            offset += _LENGTH.size
            parts.append(self._memory[offset : offset + min(missing, room)])
            missing -= len(parts[-1])
            if missing <= 0:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _exchange(self, part: Tensor, kind: int) -> list[Tensor]:
        self._op += 1
        key = (part.dtype, part.shape, self._op & 1)
        slots = self._views.get(key) or self._make_views(key)
        slots[self.rank].copy_(part)
        self._publish(kind, part.nbytes)
        return slots

    def _next_slot(self) -> int:
        self._op += 1
        return self._slot_offset(self.rank)

    def _slot_offset(self, rank: int) -> int:
        header = (_HEADER_WORDS + self.size * _RANK_WORDS) * 8
        return header + (2 * rank + (self._op & 1)) * self._slot_bytes

    def _make_views(self, key: tuple[torch.dtype, torch.Size, int]) -> list[Tensor]:
        dtype, shape, _ = key
        if len(self._views) >= MAX_VIEWS:  # shapes are few while decoding and vary only in prefill
            self._views.clear()
        offsets = [self._slot_offset(rank) for rank in range(self.size)]
        count = shape.numel()
        if count == 0:
            return [torch.empty(shape, dtype=dtype) for _ in offsets]
        views = [
            torch.frombuffer(self._memory, dtype=dtype, count=count, offset=offset).view(shape)
            for offset in offsets
        ]
        self._views[key] = views
        return views

    def _parts(self, flat: Tensor) -> Iterator[Tensor] | tuple[Tensor, ...]:
        limit = self._slot_bytes // flat.element_size()
        if flat.numel() <= limit:
            return (flat,)
        return (flat[start : start + limit] for start in range(0, flat.numel(), limit))

    def _publish(self, kind: int, num_bytes: int) -> None:
        words = self._words
        op = self._op
        tag = _TAG + (op & 1)
        wanted = num_bytes << 2 | kind
        words[self._bases[self.rank] + tag] = wanted
        words[self._my_flag] = op  # last: it marks slot and tag as written
        for flag in self._peer_flags:
            if words[flag] < op:
                self._wait(flag, op)
            found = words[flag - _FLAG + tag]
            if found != wanted:
                self._raise_mismatch(flag, found, wanted)

    def _wait(self, flag: int, op: int) -> None:
        words = self._words
        for _ in range(_SPINS):
            if words[flag] >= op:
                return
        start = time.monotonic()
        next_check = start + _LIVENESS_S
        while words[flag] < op:
            now = time.monotonic()
            waited_s = now - start
            if waited_s < _YIELD_S:
                os.sched_yield()  # also yields to the other threads of this process
                continue
            if words[flag - _FLAG + _CLOSED]:
                if words[flag] >= op:
                    return
                raise PeerLost(f"{self._name(flag)} closed its group")
            if now > next_check:
                next_check = now + _LIVENESS_S
                self._check_alive()
            if waited_s > self._timeout_s:
                raise PeerTimeout(f"{self._name(flag)} did not answer within {self._timeout_s:g} s")
            # Adds at most 1 % to the time waited so far.
            time.sleep(min(max(waited_s / 100, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S))

    def _check_alive(self) -> None:
        for flag in self._peer_flags:
            identity = self._identity(flag)
            if identity.pid and not identity.is_alive():
                raise PeerLost(f"{self._name(flag)} is gone")

    def _meet(self) -> None:
        me = ProcessIdentity.of_this_process()
        base = self._bases[self.rank]
        self._words[base + _STARTED] = me.started
        self._words[base + _PID] = me.pid
        try:
            self._next_slot()
            self._publish(_BYTES, 0)
        except (PeerLost, PeerTimeout):
            self.close()
            raise

    def _identity(self, flag: int) -> ProcessIdentity:
        base = flag - _FLAG
        return ProcessIdentity(pid=self._words[base + _PID], started=self._words[base + _STARTED])

    def _name(self, flag: int) -> str:
        pid = self._identity(flag).pid
        where = f"pid {pid}" if pid else "which never attached"
        return f"{self._role} rank {self._bases.index(flag - _FLAG)} ({where})"

    def _raise_mismatch(self, flag: int, found: int, wanted: int) -> None:
        raise ShapeError(
            f"{self._name(flag)} and {self._role} rank {self.rank} are at different operations: "
            f"kind {found & 3} with {found >> 2} bytes, kind {wanted & 3} with {wanted >> 2} bytes"
        )


def _total_bytes(size: int, slot_bytes: int) -> int:
    return (_HEADER_WORDS + size * _RANK_WORDS) * 8 + 2 * size * slot_bytes


def _open_ready(path: Path) -> mmap.mmap | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{path} belongs to user {status.st_uid}")
        if status.st_size < _HEADER_WORDS * 8:
            return None
        memory = mmap.mmap(fd, status.st_size)
    finally:
        os.close(fd)
    magic, size, slot_bytes = struct.unpack_from("<qqq", memory, 0)
    if magic == MAGIC and len(memory) == _total_bytes(size, slot_bytes):
        return memory
    memory.close()
    return None
