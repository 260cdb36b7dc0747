"""The log on disk: durable, appended to, cut where a process died, refused where it is damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parallel.training.seedlog.step import Commit, Entry
from runtime.errors import ConfigError
from runtime.training.seedlog.job import open_log
from runtime.training.seedlog.log import Machine, SeedLog, read_log
from tests.runtime.training.seedlog.runs import header


def commit(number: int) -> Commit:
    entries = [Entry(number, 3, b"\x50\xd0"), Entry(number, 40, b"\x11\x80")]
    if number:
        entries.insert(0, Entry(number - 1, 7, b"\x60\x61"))
    return Commit(
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
    opened.append(Commit(round=6, entries=tuple(many), factor=1.0))
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
    opened.append(Commit(round=6, entries=(Entry(6, 1, b"\x50" * 500),), factor=1.0))
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


def test_records_out_of_order_are_refused(log: Path) -> None:
    opened, _ = open_log(log, header())
    opened.append(commit(9))
    opened.close()
    with pytest.raises(ConfigError, match="round 9 follows round 5"):
        read_log(log)


def test_another_runs_log_is_refused(log: Path) -> None:
    other = replace(header(), seed=6)
    with pytest.raises(ConfigError, match="seed: 5 became 6"):
        open_log(log, other)
    with pytest.raises(ConfigError, match="cannot be begun"):
        SeedLog.create(log, header())
