"""The log of a shared-seed run: append-only, checksummed msgpack; with its base it is the result.

A file is a magic, then frames: length, CRC-32 of the content, CRC-32 of these two, msgpack. A last
frame that was being written as the process ended is cut off; anything else that does not fit is
rejected.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from parallel.training.shared_seed.numbering import MAX_SAMPLES
from parallel.training.shared_seed.packing import EntryGroup, pack, unpack
from parallel.training.shared_seed.step import RoundCommit
from runtime.checking.tables import make
from runtime.checking.values import describe, number, text, whole_number
from runtime.errors import ConfigError, InvalidValue
from runtime.files.documents import parse_msgpack, read_bytes
from runtime.training.job.shared_seed_settings import WEIGHTS

_MAGIC = b"PLSEED\x00\x01"
_FRAME = struct.Struct("<III")
_MAX_BYTES = 1 << 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Facts that determine a run's weights, together with its commits."""

    seed: int
    """Seed of the directions, 64 bits."""
    model: str
    """The user's name for the model."""
    model_digest: bytes
    """SHA-256 of its weights; replay on another model is rejected."""
    size: int
    """Number of trained weights."""
    eps: float
    """Distance of the perturbed points from the weights; a float32."""
    weights: str = "lora"
    """Trained weights: "lora", or "linear" for the linear layers' own."""
    rank: int = 8
    """Rank of the adapters."""
    alpha: float = 16.0
    """A float32."""
    targets: list[str] = field(default_factory=list)
    """Layers that get adapters."""
    direction_rank: int = 1
    """Rank of directions in "linear" weights."""
    pool: int = 0
    """Size of the pool of directions; 0 draws new ones in every round."""
    hash_every: int = 10
    """Rounds between two comparisons of the replicas."""

    def __post_init__(self) -> None:
        """Raise ValueError for what no run can have: headers come from files and from peers."""
        counts = (
            ("seed", self.seed, 0, 2**64 - 1),
            ("size", self.size, 0, 2**40),
            ("rank", self.rank, 1, 2**20),
            ("direction_rank", self.direction_rank, 1, 2**20),
            ("pool", self.pool, 0, MAX_SAMPLES),
            ("hash_every", self.hash_every, 1, 2**32),
        )
        for name, value, least, most in counts:
            whole_number(value, name, minimum=least, maximum=most)
        for name, held in (("eps", self.eps), ("alpha", self.alpha)):
            if not number(held, name) > 0:
                raise InvalidValue(f"{name} is {held}: it must be above 0")
        if self.weights not in WEIGHTS:
            raise InvalidValue(f"weights is {self.weights!r}: it must be one of {WEIGHTS}")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that joined; numbers are never given again."""

    number: int
    name: str
    secret_digest: bytes
    """SHA-256 of what it has to show."""
    round: int
    """When it joined."""


@dataclass(slots=True)
class Records:
    """What a log holds."""

    header: Header
    machines: list[Machine] = field(default_factory=list)
    commits: list[RoundCommit] = field(default_factory=list)
    num_bytes: int = 0
    """Up to the end of the last whole frame."""


class SeedLog:
    """A log that is written to; each record is on disk before `append` returns."""

    def __init__(self, path: Path, records: Records) -> None:
        self._file = path.open("r+b")
        self._file.truncate(records.num_bytes)
        self._file.seek(records.num_bytes)

    @classmethod
    def create(cls, path: Path, header: Header) -> "SeedLog":
        """Begin a log; raises ConfigError if there is one."""
        try:
            with path.open("xb") as file:
                file.write(_MAGIC + _frame(["h", asdict(header)]))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"{path} cannot be begun: {error}") from error
        return cls(path, Records(header, num_bytes=path.stat().st_size))

    def append(self, record: RoundCommit | Machine) -> None:
        """Write a record, durably."""
        self._file.write(_frame(_packed(record)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> Records:
    """Read a log; what a process was writing when it ended is left out.

    Raises:
        ConfigError: it is no log, or damaged; names the byte.
    """
    data = read_bytes(path, max_bytes=_MAX_BYTES)
    if not data.startswith(_MAGIC):
        raise ConfigError(f"{path} is no log of a shared-seed run")
    records: Records | None = None
    offset = len(_MAGIC)
    for kind, fields_, stop in _frames(path, data):
        try:
            if kind == "h" and records is None:
                records = Records(_header(fields_[0]))
            elif kind == "m" and records is not None:
                records.machines.append(_machine(fields_, expected=len(records.machines)))
            elif kind == "c" and records is not None:
                records.commits.append(_commit(fields_, expected=len(records.commits)))
            else:
                raise ValueError(f"a record {kind!r} is out of order")
        except (TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"{path} is damaged at byte {offset}: {error}") from error
        offset = stop
    if records is None:
        raise ConfigError(f"{path} is damaged at byte {offset}: it has no header")
    records.num_bytes = offset
    return records


def _frames(path: Path, data: bytes) -> Iterator[tuple[str, list[Any], int]]:
    offset = len(_MAGIC)
    while offset < len(data):
        if len(data) - offset < _FRAME.size or not any(data[offset:]):
            return  # it was being written
        size, checksum, check = _FRAME.unpack_from(data, offset)
        if zlib.crc32(data[offset : offset + 8]) != check:
            raise ConfigError(f"{path} is damaged at byte {offset}: checksum mismatch")
        stop = offset + _FRAME.size + size
        payload = data[offset + _FRAME.size : stop]
        if zlib.crc32(payload) != checksum:
            if stop >= len(data):
                return
            raise ConfigError(f"{path} is damaged at byte {offset}: checksum mismatch")
        try:
            kind, *rest = parse_msgpack(payload)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged at byte {offset}: {error}") from error
        yield kind, rest, stop
        offset = stop


def _frame(record: list[Any]) -> bytes:
    payload: bytes = msgpack.packb(record)
    start = struct.pack("<II", len(payload), zlib.crc32(payload))
    return start + struct.pack("<I", zlib.crc32(start)) + payload


def _packed(record: RoundCommit | Machine) -> list[Any]:
    if isinstance(record, Machine):
        return ["m", record.number, record.name, record.secret_digest, record.round]
    factors = (record.factor, record.decay, record.momentum, record.next_unit)
    bits = np.array(factors, dtype="<f4").tobytes()
    groups = [[record.round - number, *rest] for number, *rest in pack(record.entries)]
    return ["c", record.round, bits, groups]


def _commit(parts: list[Any], *, expected: int) -> RoundCommit:
    round_, bits, groups = parts
    if round_ != expected:
        raise ValueError(f"round {round_} follows round {expected - 1}")
    factor, decay, momentum, next_unit = (float(x) for x in np.frombuffer(bits, dtype="<f4"))
    return RoundCommit(
        round=round_,
        entries=unpack(EntryGroup(round_ - age, *rest) for age, *rest in groups),
        factor=factor,
        decay=decay,
        momentum=momentum,
        next_unit=next_unit,
    )


def _header(table: dict[str, Any]) -> Header:
    return make(Header, table)


def _machine(parts: list[Any], *, expected: int) -> Machine:
    machine = Machine(*parts)
    whole_number(machine.number, "a machine's number", minimum=expected, maximum=expected)
    whole_number(machine.round, "a machine's round", minimum=0)
    text(machine.name, "a machine's name")
    if not isinstance(machine.secret_digest, bytes):
        raise ValueError(f"a machine's secret is {describe(machine.secret_digest)}, not bytes")
    return machine
