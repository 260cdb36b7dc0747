"""Recognize files that hold no JSON lines by how they begin, and say what to do with them."""

from pathlib import Path

from runtime.errors import ConfigError

_READ_BYTES = 4096
_BYTE_ORDER = b"\xef\xbb\xbf"
_BEGINNINGS = (
    (b"version https://git-lfs", "is a pointer of Git LFS in place of the data: run git lfs pull"),
    (b"\x1f\x8b", "is compressed: unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "is compressed: unpack it with unzstd"),
    (b"BZh", "is compressed: unpack it with bunzip2"),
    (b"\xfd7zXZ", "is compressed: unpack it with unxz"),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet: unpack it, or convert it to .jsonl"),
    (b"PAR1", "is a parquet file: give it a name that ends with .parquet"),
    (
        b"ARROW1",
        "is an Arrow file: name the directory that `save_to_disk` of Hugging Face datasets wrote",
    ),
    (
        b"\xff\xff\xff\xff",
        "is an Arrow file: name the directory that `save_to_disk` of Hugging Face datasets wrote",
    ),
    (b"SQLite format 3", "is a database: export its records as .jsonl"),
    (b"\x80", "is a pickle of Python or another binary file: convert it to .jsonl"),
    (b"\xff\xfe", "is in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "is in UTF-16: save it as UTF-8"),
)
_TABLES = (".csv", ".tsv")


def check_kind(file: Path) -> None:
    """Raise ConfigError for a file of another kind than JSON lines; names the kind and a remedy."""
    if not file.is_file():  # a pipe's bytes can be read only once
        return
    try:
        with file.open("rb") as opened:
            start = opened.read(_READ_BYTES)
    except OSError as error:
        raise ConfigError(f"file {file} cannot be read: {error.strerror or error}") from error
    for beginning, remedy in _BEGINNINGS:
        if start.startswith(beginning):
            raise ConfigError(f"{file} {remedy}")
    if remedy := _of_text(file, start.removeprefix(_BYTE_ORDER).lstrip()):
        raise ConfigError(f"{file} {remedy}")


def _of_text(file: Path, start: bytes) -> str:
    """Return what is wrong with a text; empty if it may be JSON lines."""
    first = start.split(b"\n", 1)[0].strip()
    if start.startswith(b"<"):
        return "is a page of HTML or XML, maybe of a download that failed: fetch the file itself"
    if start.startswith(b"["):
        return "is one JSON list: write each of its records on a line of its own, as jq -c '.[]'"
    if first == b"{":
        return "is one JSON object over several lines: write each record on one line, as jq -c ."
    if file.suffix in _TABLES and first and not first.startswith(b"{"):
        return f"is a table ({file.suffix}): convert it to .jsonl or .parquet"
    return ""
