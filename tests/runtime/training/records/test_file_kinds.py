"""Files of other kinds than JSON lines are named, with what to do about them."""

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.training.records.file_kinds import check_kind
from tests.support.rejection import rejected

LINES = b'{"text": "one"}\n{"text": "two"}\n'
TABLE = pa.table({"text": ["one", "two"]})


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.jsonl", LINES)
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(TABLE, file)
    return file.getvalue()


def arrow(*, streamed: bool) -> bytes:
    file = io.BytesIO()
    make = pa.ipc.new_stream if streamed else pa.ipc.new_file
    with make(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7", "git lfs pull"),
        ("a.jsonl.gz", gzip.compress(LINES), "is compressed: unpack it with gunzip"),
        ("a.jsonl.bz2", bz2.compress(LINES), "is compressed: unpack it with bunzip2"),
        ("a.jsonl.xz", lzma.compress(LINES), "is compressed: unpack it with unxz"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x04\x58", "is compressed: unpack it with unzstd"),
        ("a.zip", zipped(), "is a zip archive or a spreadsheet: unpack it"),
        ("a.pq", parquet(), "is a parquet file: give it a name that ends with .parquet"),
        ("a.arrow", arrow(streamed=True), "is an Arrow file: name the directory"),
        ("a.feather", arrow(streamed=False), "is an Arrow file: name the directory"),
        ("a.db", b"SQLite format 3\x00", "is a database: export its records as .jsonl"),
        ("a.pkl", pickle.dumps([1]), "is a pickle of Python or another binary file"),
        ("a.jsonl", '{"text": "one"}'.encode("utf-16"), "is in UTF-16: save it as UTF-8"),
        (
            "a.jsonl",
            b"\n<!DOCTYPE html><title>Not found</title>",
            "maybe of a download that failed",
        ),
        ("a.json", b"\xef\xbb\xbf [\n" + LINES, "is one JSON list: write each of its records on"),
        ("a.json", b'{\n  "text": "one"\n}\n', "is one JSON object over several lines"),
        ("a.csv", b"text,label\none,1\n", r"is a table \(.csv\): convert it to .jsonl or .parquet"),
    ],
)
def test_a_file_of_another_kind_is_named_with_a_remedy(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with rejected(f"{name} .*{message}|{name} {message}"):
        check_kind(file)


@pytest.mark.parametrize("data", [LINES, b"", b"\n\n" + LINES, b"\xef\xbb\xbf" + LINES, b"{}"])
def test_json_lines_are_not_rejected_whatever_their_name(tmp_path: Path, data: bytes) -> None:
    for name in ("a.jsonl", "a.json", "a.txt", "a.csv"):
        (tmp_path / name).write_bytes(data)
        check_kind(tmp_path / name)
