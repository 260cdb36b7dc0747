"""Traffic is written whole or not at all, and errors name the directory."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.distillation.traffic import TrafficLog, TrafficReader
from runtime.errors import ConfigError
from tests.support.rig import make_submit


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Limit the size of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_answer_that_does_not_fit_the_disk_leaves_no_torn_line(tmp_path: Path) -> None:
    log, reader = TrafficLog(tmp_path), TrafficReader(tmp_path)
    log.append(make_submit(), (1, 2, 3))
    size = (tmp_path / "traffic.jsonl").stat().st_size
    with full_disk(size + 20), pytest.raises(OSError, match=r"wrote 20 of \d+ bytes"):
        log.append(make_submit(), (4, 5))
    assert (tmp_path / "traffic.jsonl").stat().st_size == size
    log.append(make_submit(), (6,))
    assert [record.output_ids for record in reader.new()] == [(1, 2, 3), (6,)]
    log.close()
    reader.close()


def test_a_device_without_room_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "traffic.jsonl").symlink_to("/dev/full")
    log = TrafficLog(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        log.append(make_submit(), (1,))
    log.close()


def test_a_directory_that_cannot_be_written_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="traffic cannot be written to"):
        TrafficLog(tmp_path / "file")
