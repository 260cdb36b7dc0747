"""A file in windows yields the records that it yields as a whole, each window on its own."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtime.training.data_files import open_records
from runtime.training.streaming.record_windows import open_windows
from tests.support.record_files import in_data_set, in_lines, in_parquet
from tests.support.rejection import rejected

RECORDS: list[dict[str, Any]] = [{"id": number, "text": f"naïve {number}"} for number in range(11)]


lines = partial(in_lines, RECORDS)
parquet = partial(in_parquet, RECORDS, group_size=3)
saved = partial(in_data_set, RECORDS)


@pytest.mark.parametrize("make", [lines, parquet, saved])
@pytest.mark.parametrize("size", [1, 4, 20])
def test_windows_hold_the_records_of_the_file(tmp_path: Path, make: Any, size: int) -> None:
    file = make(tmp_path)
    whole, windows = list(open_records(file)), open_windows(file, size)
    assert windows.num_records == len(RECORDS)
    for window in reversed(range(-(-len(RECORDS) // size))):
        assert windows.read(window) == whole[window * size : (window + 1) * size]


@pytest.mark.parametrize("make", [lines, parquet, saved])
def test_a_limit_keeps_the_first_records(tmp_path: Path, make: Any) -> None:
    file = make(tmp_path)
    windows = open_windows(file, 4, limit=6)
    assert windows.num_records == 6
    assert [record["id"] for _, record in windows.read(1)] == [4, 5]


@pytest.mark.parametrize("make", [lines, parquet])
def test_the_digest_is_that_of_the_contents(tmp_path: Path, make: Any) -> None:
    file = make(tmp_path)
    first = open_windows(file, 4).digest
    assert open_windows(file, 9).digest == first
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other")
    assert open_windows(other, 4).digest == first
    RECORDS[7]["text"] = "changed"
    try:
        assert open_windows(make(tmp_path / "other"), 4).digest != first
    finally:
        RECORDS[7]["text"] = "naïve 7"


def test_a_bad_line_is_named_when_its_window_is_read(tmp_path: Path) -> None:
    file = lines(tmp_path)
    text = file.read_text().splitlines(keepends=True)
    text[12] = '{"id": \n'
    file.write_text("".join(text))
    windows = open_windows(file, 3)
    assert len(windows.read(0)) == 3
    with rejected(r"data.jsonl, line 13"):
        windows.read(2)


def test_a_file_without_records_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with rejected("empty.jsonl has no samples"):
        open_windows(tmp_path / "empty.jsonl", 3)
    with rejected("none.parquet does not exist"):
        open_windows(tmp_path / "none.parquet", 3)


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    file = lines(tmp_path)
    windows = open_windows(file, 4)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:19]))
    with rejected("became shorter while it was used"):
        windows.read(2)
