"""Links over torch.distributed point-to-point: gloo between CPUs, NCCL between CUDA devices.

Every message is one block of 4096 bytes (its length, then its start) and, when longer, one more
tensor. Each direction has its own two-rank process group, because NCCL runs the operations of one
group in order and a pending receive would block every send. With NCCL the blocks are staged in
pinned memory and in CUDA byte tensors, on a stream of each direction. (Written for CUDA; the tests
run gloo.)
"""

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallel.messages import Message
from runtime.errors import PacelineError, PeerError, PeerLost, PeerTimeout, ProtocolError
from runtime.groups.gloo import (
    StoreServer,
    connect_store,
    listen_store,
    make_gloo,
    make_nccl,
    translated,
)
from runtime.groups.proof import is_proof, new_secret, new_word, proof_of
from runtime.links.codec import decode, encode
from runtime.links.inbox import Inbox
from runtime.links.link import Link

MAX_MESSAGE_BYTES = 64 << 20

_BLOCK_BYTES = 4096
_LENGTH_BYTES = 8
_ROOM = _BLOCK_BYTES - _LENGTH_BYTES
_BYE = -1
_ALIVE = 0  # no encoded message is empty
_TAG = 1
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchLinkSpec:
    """How the two ends of a link find each other; plain fields that can be serialized."""

    host: str
    port: int
    backend: str
    """"gloo" or "nccl"."""
    timeout_s: float
    """Seconds without a message or heartbeat after which the peer is marked as lost."""
    secret: str = ""
    """The secret whose knowledge both ends prove to each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchLinkOffer:
    """The spec and its store, which must be kept until both ends have joined."""

    spec: TorchLinkSpec
    server: StoreServer


class TorchLink:
    """One end of a link, with a thread that receives and one that sends heartbeats while idle."""

    def __init__(self, outgoing: "_Channel", incoming: "_Channel", *, peer: str) -> None:
        self._peer = peer
        self._outgoing = outgoing
        self._incoming = incoming
        self._inbox = Inbox()
        self._sending = threading.Lock()
        self._last_sent_s = time.monotonic()
        self._said_bye = False
        self._stopped = threading.Event()
        self._receiver = threading.Thread(target=self._receive, name=f"read {peer}", daemon=True)
        self._pulse = threading.Thread(target=self._show_life, name=f"pulse {peer}", daemon=True)
        self._receiver.start()
        self._pulse.start()

    @property
    def peer(self) -> str:
        """The other side's name."""
        return self._peer

    def send(self, message: Message) -> None:
        """Send one message; blocks until the peer's thread has received it. See `Link.send`."""
        data = encode(message)
        if self._inbox.end is not None:
            raise self._inbox.end
        try:
            self._put(len(data), data)
        except PeerError as error:
            self._finish(PeerLost(str(error)))
            raise PeerLost(str(error)) from error

    def recv(self, timeout_s: float) -> Message | None:
        """Return the next message or None; see `Link.recv`."""
        return self._inbox.get(timeout_s)

    def close(self) -> None:
        """Send a goodbye, wait at most 2 s for the peer's, and release the sockets."""
        self._finish(PeerLost(f"the link to {self._peer} is closed"))
        self._say_bye()
        self._receiver.join(_CLOSE_S)
        self._pulse.join(_CLOSE_S)
        self._outgoing.close()
        self._incoming.close()
        self._receiver.join(_CLOSE_S)

    def _put(self, length: int, data: bytes = b"") -> None:
        with self._sending:
            if self._said_bye:
                raise PeerLost(f"the link to {self._peer} is closed")
            self._last_sent_s = time.monotonic()
            self._said_bye = length == _BYE
            self._outgoing.send(length.to_bytes(_LENGTH_BYTES, "little", signed=True) + data)

    def _say_bye(self) -> None:
        try:
            self._put(_BYE)
        except PeerError:
            return  # sent before, or the peer is gone: no process waits for it

    def _finish(self, reason: PacelineError) -> None:
        self._inbox.fail(reason)
        self._stopped.set()

    def _receive(self) -> None:
        try:
            while (data := self._incoming.recv()) is not None:
                if data:
                    self._inbox.put(decode(data))
            self._finish(PeerLost(f"{self._peer} closed the link"))
        except PeerTimeout as error:
            self._finish(PeerLost(str(error)))
        except (PeerLost, ProtocolError) as error:
            self._finish(error)
        self._say_bye()

    def _show_life(self) -> None:
        period_s = self._outgoing.timeout_s / 4
        while not self._stopped.wait(period_s):
            if time.monotonic() - self._last_sent_s >= period_s:
                try:
                    self._put(_ALIVE)
                except PeerError as error:
                    self._finish(PeerLost(str(error)))


class _Channel:
    """One direction of a link."""

    def __init__(self, group: Any, *, rank: int, device: str, peer: str, timeout_s: float) -> None:
        self._group = group
        self._other = 1 - rank
        self._device = device
        self._peer = peer
        self._block = torch.empty(_BLOCK_BYTES, dtype=torch.uint8, device=device)
        self._host_block = self._staging(_BLOCK_BYTES)
        # Not the stream of a model in this process: a message must not wait for its forward.
        self._stream = None if device == "cpu" else _new_stream()
        self.timeout_s = timeout_s

    def send(self, data: bytes) -> None:
        with self._on_stream():
            _write(data[:_BLOCK_BYTES], self._host_block)
            self._block.copy_(self._host_block)
            self._run("send", self._block)
            if len(data) > _BLOCK_BYTES:
                staged = self._staging(len(data) - _BLOCK_BYTES)
                _write(memoryview(data)[_BLOCK_BYTES:], staged)
                self._run("send", staged.to(self._device))

    def recv(self) -> bytes | None:
        """Return one message: empty for a heartbeat, None for a goodbye."""
        with self._on_stream():
            return self._received()

    def _received(self) -> bytes | None:
        self._run("recv", self._block)
        self._host_block.copy_(self._block)
        head = self._host_block.numpy().tobytes()
        length = int.from_bytes(head[:_LENGTH_BYTES], "little", signed=True)
        if length == _BYE:
            return None
        if not 0 <= length <= MAX_MESSAGE_BYTES:
            raise ProtocolError(f"{self._peer} announced a message of {length} bytes")
        data = head[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if length > _ROOM:
            rest = torch.empty(length - _ROOM, dtype=torch.uint8, device=self._device)
            self._run("recv", rest)
            data += self._staging(length - _ROOM).copy_(rest).numpy().tobytes()
        return data

    def close(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.abort()

    def _staging(self, num_bytes: int) -> Tensor:
        """Return memory of the host for copies to and from the device: pinned for a GPU."""
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._device != "cpu")

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _run(self, verb: str, tensor: Tensor) -> None:
        group = self._group
        if group is None:
            raise PeerLost(f"the link to {self._peer} is closed")

        def call() -> None:
            getattr(group, verb)([tensor], self._other, _TAG).wait()
            if self._device != "cpu":
                torch.cuda.current_stream().synchronize()

        translated(call, peer=self._peer, timeout_s=self.timeout_s)


def _new_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's


def _write(data: bytes | memoryview, staged: Tensor) -> None:
    staged[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)


def offer_torch_link(host: str, *, backend: str, timeout_s: float) -> TorchLinkOffer:
    """Start the store through which the two ends of a link connect; both then join its spec."""
    server = listen_store(host, timeout_s=timeout_s)
    spec = TorchLinkSpec(
        host=host, port=server.port, backend=backend, timeout_s=timeout_s, secret=new_secret()
    )
    return TorchLinkOffer(spec=spec, server=server)


def join_torch_link(spec: TorchLinkSpec, rank: int, *, name: str) -> Link:
    """Connect one end (rank 0 or 1) under the name `name`; blocks until the other has joined.

    Raises:
        PeerTimeout: the other end did not join within `spec.timeout_s`.
        ProtocolError: the process that joined does not know the link's secret.
        ConfigError: the backend is nccl and there is no CUDA device.
    """
    store = connect_store(spec.host, spec.port, timeout_s=spec.timeout_s)
    store.set(f"name/{rank}", name)
    try:
        peer = store.get(f"name/{1 - rank}").decode()
    except RuntimeError as error:
        raise PeerTimeout(
            f"the other end of {name}'s link did not join within {spec.timeout_s:g} s"
        ) from error
    groups = [_make_group(spec, store, rank, sender) for sender in (0, 1)]
    channels = [
        _Channel(
            group,
            rank=rank,
            device="cuda" if spec.backend == "nccl" else "cpu",
            peer=peer,
            timeout_s=spec.timeout_s,
        )
        for group in groups
    ]
    _prove(spec, store, channels, rank, peer)
    return TorchLink(channels[rank], channels[1 - rank], peer=peer)


def _prove(spec: TorchLinkSpec, store: Any, channels: list[_Channel], rank: int, peer: str) -> None:
    """Prove to the peer that this end knows the secret, and check the peer's proof."""
    store.set(f"word/{rank}", new_word().hex())
    words = [bytes.fromhex(store.get(f"word/{sender}").decode()) for sender in (0, 1)]
    for sender in (0, 1):
        mine = proof_of(spec.secret, words, rank)
        if sender == rank:
            channels[sender].send(len(mine).to_bytes(_LENGTH_BYTES, "little", signed=True) + mine)
        elif not is_proof(spec.secret, words, sender, channels[sender].recv() or b""):
            for channel in channels:
                channel.close()
            raise ProtocolError(f"{peer} does not know this link's secret")


def _make_group(spec: TorchLinkSpec, store: Any, rank: int, sender: int) -> Any:
    name = f"from-{sender}"
    if spec.backend == "nccl":
        return make_nccl(store, name, rank=rank, size=2, timeout_s=spec.timeout_s)
    return make_gloo(store, name, rank=rank, size=2, host=spec.host, timeout_s=spec.timeout_s)
