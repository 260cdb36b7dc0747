"""Snapshots of a replica, from which machines join before they apply the rest of the log."""

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from parallel.training.shared_seed.step import AnyReplica
from runtime.errors import ProtocolError
from runtime.files.strict_json import parse_json

_DIGEST_BYTES = 32


def pack_snapshot(replica: AnyReplica) -> bytes:
    """Return a replica's state: a SHA-256, then safetensors."""
    tensors = {name: tensor.cpu() for name, tensor in replica.state().items()}
    metadata = {"round": str(replica.next_round), "unit": replica.unit.hex()}
    data: bytes = save(tensors, metadata)
    return hashlib.sha256(data).digest() + data


def write_snapshot(path: Path, replica: AnyReplica) -> None:
    """Replace the snapshot file atomically with a replica's state."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(pack_snapshot(replica))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def restore(replica: AnyReplica, snapshot: bytes) -> None:
    """Set a replica to a snapshot.

    Raises:
        ProtocolError: it is damaged, or of another run.
    """
    data = snapshot[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != snapshot[:_DIGEST_BYTES]:
        raise ProtocolError("the snapshot is damaged: SHA-256 mismatch")
    try:
        state = load(data)
        metadata = _metadata(data)
        next_round, unit = int(metadata["round"]), float.fromhex(metadata["unit"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ProtocolError(f"the snapshot cannot be read: {error}") from error
    if next_round < 0 or not (math.isfinite(unit) and unit > 0):
        raise ProtocolError(f"the snapshot is of round {next_round}, with a unit of {unit}")
    known = replica.state()
    if "theta" in known:
        known.setdefault("velocity", known["theta"])  # a replica has one from its first step on
    for name, tensor in sorted(state.items()):
        if name not in known:
            raise ProtocolError(f"the snapshot has {name}, which this run's replicas do not")
        mine = known[name]
        if (tensor.shape, tensor.dtype) != (mine.shape, mine.dtype):
            raise ProtocolError(
                f"the snapshot's {name} has {tensor.numel()} numbers of {tensor.dtype}, not "
                f"{mine.numel()} of {mine.dtype}"
            )
        if not tensor.isfinite().all():
            raise ProtocolError(f"the snapshot's {name} holds NaN or infinity")
    if missing := replica.state().keys() - state.keys() - {"velocity"}:
        raise ProtocolError(f"the snapshot lacks {min(missing)}")
    replica.restore(state, next_round=next_round, unit=unit)


def _metadata(data: bytes) -> Mapping[str, str]:
    size = int.from_bytes(data[:8], "little")
    found: dict[str, dict[str, str]] = parse_json(data[8 : 8 + size].decode("utf-8"))
    return found["__metadata__"]
