"""A group over torch.distributed: gloo for CPU tensors and bytes, NCCL for CUDA tensors.

Small CPU tensors are exchanged point to point and summed by every rank in rank order: about 340 us
where gloo's own all_reduce takes 410 us (576 floats, 2 ranks, 2-core machine, 2026-11-23).
"""

import os
import socket
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import Store  # where torch types it

from runtime.errors import PeerTimeout, ProtocolError
from runtime.groups.gloo import make_gloo, make_nccl, translated
from runtime.groups.proof import is_proof, new_word, proof_of
from runtime.groups.summing import sum_into

_EXCHANGE_BYTES = 1 << 18  # above this, gloo's ring sends less
_RING_DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64)
_BLOCK_BYTES = 4096  # first part of every broadcast: its length, then the payload's start
_LENGTH_BYTES = 8
_TAG = 1


class TorchGroup:
    """One rank's member; one thread of each process may use it.

    With NCCL, the watchdog of torch.distributed holds the deadline of tensor operations and ends
    the process; bytes always go over gloo. (Written for CUDA; the tests run gloo.)
    """

    def __init__(
        self,
        gloo: Any,
        nccl: Any | None,
        *,
        names: list[str],
        rank: int,
        timeout_s: float,
        keep: object,
    ) -> None:
        self.rank = rank
        self.size = len(names)
        self._gloo = gloo
        self._nccl = nccl
        self._names = names
        self._timeout_s = timeout_s
        self._keep = (
            keep  # the store: closing it early would disconnect ranks that are still connecting
        )
        self._peers = [other for other in range(self.size) if other != rank]
        self._block = torch.empty(_BLOCK_BYTES, dtype=torch.uint8)

    @classmethod
    def connect(
        cls,
        store: Store,
        *,
        backend: str,
        role: str,
        rank: int,
        size: int,
        host: str,
        timeout_s: float,
        secret: str = "",
        keep: object = None,
    ) -> "TorchGroup":
        """Find the other ranks in `store` and connect to all of them.

        Raises:
            PeerTimeout: a rank did not join within `timeout_s`.
            ProtocolError: a rank does not know the secret.
            ConfigError: `backend` is nccl and there is no CUDA device.
        """
        store.set(f"{role}/{rank}", f"pid {os.getpid()} on {socket.gethostname()}")
        names = [_meet(store, role, other, timeout_s) for other in range(size)]
        gloo = make_gloo(
            store, f"{role}-gloo", rank=rank, size=size, host=host, timeout_s=timeout_s
        )
        nccl = None
        if backend == "nccl":
            nccl = make_nccl(store, f"{role}-nccl", rank=rank, size=size, timeout_s=timeout_s)
        group = cls(gloo, nccl, names=names, rank=rank, timeout_s=timeout_s, keep=(store, keep))
        group._prove(secret)
        return group

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks in place; bit-equal on all ranks."""
        data = tensor.detach()
        if self._nccl is not None and data.is_cuda:
            self._run(self._nccl.allreduce([data]))
        elif data.device.type == "cpu" and data.is_contiguous() and _wants_ring(data):
            self._run(self._gloo.allreduce([data]))
        else:
            parts = self._exchange(data.cpu().contiguous())
            total = torch.empty_like(parts[0])
            sum_into(total, parts)
            data.copy_(total)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return [size, *tensor.shape] in rank order, on the tensor's device."""
        data = tensor.detach().contiguous()
        if self._nccl is not None and data.is_cuda:
            out = torch.empty((self.size, *data.shape), dtype=data.dtype, device=data.device)
            self._run(self._nccl.allgather([list(out.unbind())], [data]))
            return out
        return torch.stack(self._exchange(data.cpu())).to(tensor.device)

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        """Return rank 0's payload; the others wait for it up to the group's deadline."""
        assert (payload is not None) == (self.rank == 0)
        if payload is None:
            return self._receive_bytes()
        view = memoryview(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)
        first = self._block
        start = torch.frombuffer(bytearray(view[:_BLOCK_BYTES]), dtype=torch.uint8)
        first[: start.numel()] = start
        parts = [first]
        if len(view) > _BLOCK_BYTES:
            parts.append(torch.frombuffer(bytearray(view[_BLOCK_BYTES:]), dtype=torch.uint8))
        for part in parts:
            works = {peer: self._send(part, peer) for peer in self._peers}
            self._wait_all(works)
        return payload

    def close(self) -> None:
        """Close the connections; ranks that wait for this one raise PeerLost."""
        self._gloo = self._nccl = self._keep = None

    def _prove(self, secret: str) -> None:
        """Prove to every rank that this one knows the secret, and check their proofs."""
        words = self._gather_words(new_word())
        proofs = self._gather_words(proof_of(secret, words, self.rank))
        for rank, given in enumerate(proofs):
            if not is_proof(secret, words, rank, given):
                self.close()
                raise ProtocolError(f"{self._names[rank]} does not know this group's secret")

    def _gather_words(self, mine: bytes) -> list[bytes]:
        parts = self._exchange(torch.frombuffer(bytearray(mine), dtype=torch.uint8))
        return [part.numpy().tobytes() for part in parts]

    def _receive_bytes(self) -> bytes:
        self._wait_all({0: self._recv(self._block, 0)})
        head = self._block.numpy().tobytes()
        length = int.from_bytes(head[:_LENGTH_BYTES], "little")
        payload = head[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if len(payload) == length:
            return payload
        rest = torch.empty(length - len(payload), dtype=torch.uint8)
        self._wait_all({0: self._recv(rest, 0)})
        return payload + rest.numpy().tobytes()

    def _exchange(self, mine: Tensor) -> list[Tensor]:
        parts = [
            mine if other == self.rank else torch.empty_like(mine) for other in range(self.size)
        ]
        if mine.numel() == 0:
            return parts
        received = {peer: self._recv(parts[peer], peer) for peer in self._peers}
        sent = {peer: self._send(mine, peer) for peer in self._peers}
        self._wait_all(received)
        self._wait_all(sent)
        return parts

    def _send(self, tensor: Tensor, peer: int) -> Any:
        return self._call(peer, lambda: self._gloo.send([_as_bytes(tensor)], peer, _TAG))

    def _recv(self, tensor: Tensor, peer: int) -> Any:
        return self._call(peer, lambda: self._gloo.recv([_as_bytes(tensor)], peer, _TAG))

    def _wait_all(self, works: dict[int, Any]) -> None:
        for peer, work in works.items():
            self._call(peer, work.wait)

    def _call(self, peer: int, call: Any) -> Any:
        return translated(call, peer=self._names[peer], timeout_s=self._timeout_s)

    def _run(self, work: Any) -> None:
        peers = " or ".join(self._names[peer] for peer in self._peers)
        translated(work.wait, peer=peers, timeout_s=self._timeout_s)


def _wants_ring(tensor: Tensor) -> bool:
    return tensor.nbytes > _EXCHANGE_BYTES and tensor.dtype in _RING_DTYPES


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)


def _meet(store: Store, role: str, rank: int, timeout_s: float) -> str:
    try:
        where = store.get(f"{role}/{rank}").decode()
    except RuntimeError as error:
        raise PeerTimeout(f"{role} rank {rank} did not join within {timeout_s:g} s") from error
    return f"{role} rank {rank} ({where})"
