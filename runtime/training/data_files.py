"""Records of data files: JSON lines, parquet, and directories that Hugging Face datasets saved."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError
from runtime.files.documents import check_regular
from runtime.files.strict_json import parse_object

_MAX_LINE_BYTES = 1 << 28
_BOM = "\ufeff"
_ROWS = 256
_SPLITS = "dataset_dict.json"
"""What a directory of several splits holds, each in a directory of its own."""
_SAVED = "dataset_info.json"


def open_records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return a file's records, each with its place as errors name it.

    Args:
        file: a directory that `Dataset.save_to_disk` of Hugging Face datasets wrote, a file with
            the suffix .parquet, or JSON lines.

    Raises:
        ConfigError: it cannot be read, or a line is not a JSON object; names the line.
    """
    if file.is_dir():
        return _dataset_rows(file)
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    return _lines(file)


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of JSON lines, read one at a time; blank lines are skipped."""
    check_regular(file)
    number = 0
    try:
        with file.open("rb") as opened:
            while line := opened.readline(_MAX_LINE_BYTES):
                number += 1
                where = f"{file}, line {number}"
                text = _decoded(line, file, number)
                if number == 1:
                    text = text.removeprefix(_BOM)
                if text.strip():
                    yield where, parse_object(text, where)
    except OSError as error:
        raise ConfigError(f"file {file} cannot be read: {error.strerror or error}") from error


def _decoded(line: bytes, file: Path, number: int) -> str:
    if len(line) == _MAX_LINE_BYTES:
        raise ConfigError(
            f"{file}, line {number} has more than {_MAX_LINE_BYTES:,} bytes: write one record a "
            "line"
        )
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"file {file} is not UTF-8: line {number} has the byte 0x{line[error.start]:02x}; "
            "save it as UTF-8"
        ) from error


def _parquet_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a parquet file, read in batches."""
    check_regular(file)
    parquet = _library("pyarrow.parquet", file)
    number = 0
    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise ConfigError(f"{file} is no parquet file that can be read: {error}") from error


def _dataset_rows(directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a saved data set, read where they are needed."""
    if (directory / _SPLITS).exists():
        splits = sorted(one.parent.name for one in directory.glob(f"*/{_SAVED}"))
        raise ConfigError(
            f"{directory} holds the splits {', '.join(splits) or 'of a data set'}: name one of "
            f"them, as {directory / (splits[0] if splits else 'train')}"
        )
    if not (directory / _SAVED).exists():
        raise ConfigError(
            f"{directory} is a directory without {_SAVED}: name a file, or a directory that "
            "`save_to_disk` of Hugging Face datasets wrote"
        )
    datasets = _library("datasets", directory)
    try:
        rows = datasets.load_from_disk(str(directory))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{directory} is no data set that can be read: {error}") from error
    for number in range(len(rows)):
        yield f"{directory}, row {number + 1}", rows[number]


def _library(name: str, file: Path) -> Any:
    """Return an optional library's module."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{file} needs the library {name.partition('.')[0]}, which is not installed: install "
            "paceline[data], or convert it to .jsonl"
        ) from error
