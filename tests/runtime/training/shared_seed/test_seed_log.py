"""The log on disk: durable, appended to, cut where a process died, rejected where it is damaged."""

import struct
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import msgpack
import numpy as np
import pytest

from parallel.training.shared_seed.step import Entry, RoundCommit
from runtime.errors import ConfigError
from runtime.training.shared_seed.seed_log import Machine, SeedLog, read_log
from runtime.training.shared_seed.shared_seed_job import open_log
from tests.support.shared_seed_runs import header


def commit(number: int) -> RoundCommit:
    entries = [Entry(number, 3, b"\x50\xd0"), Entry(number, 40, b"\x11\x80")]
    if number:
        entries.insert(0, Entry(number - 1, 7, b"\x60\x61"))
    return RoundCommit(
        round=number,
        entries=tuple(entries),
        factor=float(np.float32(1e-9 / (number + 1))),
        decay=float(np.float32(0.99)),
        momentum=float(np.float32(0.9)),
        next_unit=float(np.float32(1.5)),
    )


MACHINE = Machine(0, "m", b"\2" * 32, 0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.log"
    opened = SeedLog.create(path, header())
    opened.append(MACHINE)
    for number in range(6):
        opened.append(commit(number))
    opened.close()
    return path


def test_what_was_written_is_read(log: Path) -> None:
    records = read_log(log)
    assert records.header == header()
    assert records.machines == [MACHINE]
    assert records.commits == [commit(number) for number in range(6)]
    assert records.num_bytes == log.stat().st_size


def test_a_log_is_a_few_bytes_a_scalar(log: Path) -> None:
    before = log.stat().st_size
    opened, _ = open_log(log, header())
    many = [Entry(6, machine, b"\x55" * 4) for machine in range(64)]
    opened.append(RoundCommit(round=6, entries=tuple(many), factor=1.0))
    opened.close()
    assert log.stat().st_size - before < 64 * 4 + 64 + 48


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_frame_that_was_being_written_is_cut_off(log: Path, cut: int) -> None:
    data = log.read_bytes()
    log.write_bytes(data[:-cut])
    opened, records = open_log(log, header())
    assert len(records.commits) == 5
    opened.append(commit(5))
    opened.close()
    assert log.read_bytes() == data


def test_what_follows_a_cut_frame_is_whole(log: Path) -> None:
    """The rest of a longer frame does not stay behind a shorter one."""
    data = log.read_bytes()
    opened, _ = open_log(log, header())
    opened.append(RoundCommit(round=6, entries=(Entry(6, 1, b"\x50" * 500),), factor=1.0))
    opened.close()
    log.write_bytes(log.read_bytes()[:-1])
    opened, _ = open_log(log, header())
    opened.append(commit(6))
    opened.close()
    assert log.read_bytes()[: len(data)] == data
    assert [c.round for c in read_log(log).commits] == list(range(7))
    assert read_log(log).num_bytes == log.stat().st_size


def test_any_flipped_byte_before_the_last_frame_is_found(log: Path) -> None:
    data = log.read_bytes()
    last = len(data) - 80
    for place in range(0, last, 7):
        damaged = bytearray(data)
        damaged[place] ^= 0x20
        log.write_bytes(bytes(damaged))
        with pytest.raises(ConfigError, match=r"damaged|no log"):
            read_log(log)


def test_records_out_of_order_are_rejected(log: Path) -> None:
    opened, _ = open_log(log, header())
    opened.append(commit(9))
    opened.close()
    with pytest.raises(ConfigError, match="round 9 follows round 5"):
        read_log(log)


def test_another_runs_log_is_rejected(log: Path) -> None:
    other = replace(header(), seed=6)
    with pytest.raises(ConfigError, match="seed: 5 became 6"):
        open_log(log, other)
    with pytest.raises(ConfigError, match="cannot be begun"):
        SeedLog.create(log, header())


def written(path: Path, *records: list[object]) -> Path:
    """Write a log of any records, each with the checksums of a whole one."""
    data = b"PLSEED\x00\x01"
    for record in records:
        payload: bytes = msgpack.packb(record)
        start = struct.pack("<II", len(payload), zlib.crc32(payload))
        data += start + struct.pack("<I", zlib.crc32(start)) + payload
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "5"}, "seed is '5'"),
        ({"seed": -1}, "seed is -1: it must be between"),
        ({"seed": 2**64}, "damaged at byte 8"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"eps": 0.0}, "eps is 0.0: it must be above 0"),
        ({"weights": "all"}, "weights is 'all'"),
        ({"targets": "q_proj"}, "targets is 'q_proj'"),
        ({"targets": [1]}, r"targets\[0\] is 1"),
        ({"pool": 1 << 20}, "pool is 1048576"),
        ({"model_digest": "abc"}, "model_digest is 'abc'"),
        ({"momentum": 0.5}, "unknown key momentum"),
        ({"size": None}, "size is None"),
    ],
)
def test_a_header_that_no_run_can_have_is_rejected(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    table = asdict(header())
    assert read_log(written(tmp_path / "whole.log", ["h", table])).header == header()
    try:
        odd = written(tmp_path / "odd.log", ["h", table | changes])
    except OverflowError:  # msgpack has 64 bits
        return
    with pytest.raises(ConfigError, match=message):
        read_log(odd)
    del table["seed"]
    with pytest.raises(ConfigError, match="seed is missing"):
        read_log(written(odd, ["h", table]))


def bits(*factors: float) -> bytes:
    return np.array(factors, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (["c", 0, bits(float("nan"), 1, 0, 1), []], "factor of round 0 is nan"),
        (["c", 0, bits(1, 1, 0, float("inf")), []], "next_unit of round 0 is inf"),
        (["c", 0, bits(1, 1, 0), []], "damaged at byte"),
        (["c", "0", bits(1, 1, 0, 1), []], "round 0 follows"),
        (["m", 1, "m", b"\2" * 32, 0], "a machine's number is 1"),
        (["m", 0, "m", b"\2" * 32, -1], "a machine's round is -1"),
        (["m", 0, 7, b"\2" * 32, 0], "a machine's name is 7"),
        (["m", 0, "m", "secret", 0], "a machine's secret is 'secret'"),
        (["m", 0, "m"], "damaged at byte"),
        (["x"], "a record 'x' is out of order"),
    ],
)
def test_a_record_that_no_run_writes_is_rejected(
    tmp_path: Path, record: list[object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_log(written(tmp_path / "odd.log", ["h", asdict(header())], record))
