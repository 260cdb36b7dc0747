"""Data files of each kind yield the same records, or are rejected with their place."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest

from runtime.training.data_files import open_records
from tests.support.record_files import in_data_set, in_lines, in_parquet
from tests.support.rejection import rejected

RECORDS: list[dict[str, Any]] = [
    {"id": 1, "messages": [{"role": "user", "content": "Hi"}], "text": None},
    {"id": 2, "messages": [{"role": "assistant", "content": "naïve 你好"}], "text": "x"},
]


lines = partial(in_lines, RECORDS)
parquet = partial(in_parquet, RECORDS, group_size=1)
saved = partial(in_data_set, RECORDS)


@pytest.mark.parametrize(
    ("make", "places"),
    [(lines, ["line 1", "line 3"]), (parquet, ["row 1", "row 2"]), (saved, ["row 1", "row 2"])],
)
def test_every_kind_yields_the_same_records(tmp_path: Path, make: Any, places: list[str]) -> None:
    file = make(tmp_path)
    found = list(open_records(file))
    assert [record for _, record in found] == RECORDS
    assert [where for where, _ in found] == [f"{file}, {place}" for place in places]


def test_a_directory_of_splits_names_them(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(RECORDS)
    datasets.DatasetDict({"train": rows, "dev": rows}).save_to_disk(str(tmp_path / "all"))
    with rejected("all holds the splits dev, train: name one of them, as .*all/dev"):
        list(open_records(tmp_path / "all"))
    assert len(list(open_records(tmp_path / "all" / "dev"))) == len(RECORDS)


def test_what_is_no_data_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}')
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "dataset_info.json").write_text("{}")
    with rejected(r"bad.parquet is no parquet file that can be read"):
        list(open_records(tmp_path / "bad.parquet"))
    with rejected(r"bad.jsonl is not UTF-8: line 2 has the byte 0xff; save it as UTF-8"):
        list(open_records(tmp_path / "bad.jsonl"))
    with rejected(r"is a directory without dataset_info.json: name a file, or a directory that"):
        list(open_records(tmp_path))
    with rejected(r"half is no data set that can be read"):
        list(open_records(tmp_path / "half"))
    with rejected(r"none.jsonl does not exist"):
        list(open_records(tmp_path / "none.jsonl"))


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with rejected(r"data.parquet needs the library pyarrow, .* install paceline\[data\], or conv"):
        list(open_records(file))
