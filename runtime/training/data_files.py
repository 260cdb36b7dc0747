"""Records of data files: JSON lines, parquet, and directories that Hugging Face datasets saved."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError
from runtime.files.documents import check_regular
from runtime.files.strict_json import parse_object
from runtime.training.records.file_kinds import check_kind

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


def is_in_lines(file: Path) -> bool:
    """Return whether a file holds JSON lines."""
    return not (file.is_dir() or file.suffix == ".parquet")


def numbered_lines(file: Path, *, offset: int = 0, number: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file from an offset on, where the line of a number begins.

    Raises:
        ConfigError: it cannot be read, or a line is too long.
    """
    check_regular(file)
    if offset == 0:
        check_kind(file)
    try:
        with file.open("rb") as opened:
            opened.seek(offset)
            while line := opened.readline(_MAX_LINE_BYTES):
                if len(line) == _MAX_LINE_BYTES:
                    raise ConfigError(
                        f"{file}, line {number} has more than {_MAX_LINE_BYTES:,} bytes: write one "
                        "record a line"
                    )
                yield number, line
                number += 1
    except OSError as error:
        raise ConfigError(f"file {file} cannot be read: {error.strerror or error}") from error


def parsed_line(file: Path, number: int, line: bytes) -> tuple[str, dict[str, Any]] | None:
    """Return the record of a line after its place, or None for a blank line.

    Raises:
        ConfigError: it is not a JSON object in UTF-8.
    """
    text = _decoded(line, file, number)
    if number == 1:
        text = text.removeprefix(_BOM)
    where = f"{file}, line {number}"
    return (where, parse_object(text, where)) if text.strip() else None


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of JSON lines, read one at a time; blank lines are skipped."""
    for number, line in numbered_lines(file):
        record = parsed_line(file, number, line)
        if record is not None:
            yield record


def _decoded(line: bytes, file: Path, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"file {file} is not UTF-8: line {number} has the byte 0x{line[error.start]:02x}; "
            "save it as UTF-8"
        ) from error


def count_rows(file: Path) -> int:
    """Return the number of rows of a parquet file or a saved data set; reads no row.

    Raises:
        ConfigError: it cannot be read.
    """
    if file.is_dir():
        return len(_saved_rows(file))
    with _opened_parquet(file) as opened:
        return int(opened.metadata.num_rows)


def rows_between(file: Path, first: int, stop: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield some rows of a parquet file or a saved data set; holds a row group at a time.

    Raises:
        ConfigError: it cannot be read.
    """
    if file.is_dir():
        rows = _saved_rows(file)
        for number in range(first, stop):
            yield f"{file}, row {number + 1}", rows[number]
        return
    with _opened_parquet(file) as opened:
        start = 0
        for group in range(opened.num_row_groups):
            size = opened.metadata.row_group(group).num_rows
            if start < stop and start + size > first:
                number = start
                for batch in opened.iter_batches(batch_size=_ROWS, row_groups=[group]):
                    for row in batch.to_pylist():
                        if first <= number < stop:
                            yield f"{file}, row {number + 1}", row
                        number += 1
            start += size


def _parquet_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a parquet file, read in batches."""
    return rows_between(file, 0, count_rows(file))


@contextmanager
def _opened_parquet(file: Path) -> Iterator[Any]:
    check_regular(file)
    parquet = _library("pyarrow.parquet", file)
    try:
        with parquet.ParquetFile(file) as opened:
            yield opened
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise ConfigError(f"{file} is no parquet file that can be read: {error}") from error


def _dataset_rows(directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a saved data set, read where they are needed."""
    return rows_between(directory, 0, count_rows(directory))


def _saved_rows(directory: Path) -> Any:
    """Return the rows of a saved data set, which are read when they are taken."""
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
        return datasets.load_from_disk(str(directory))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{directory} is no data set that can be read: {error}") from error


def _library(name: str, file: Path) -> Any:
    """Return an optional library's module."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{file} needs the library {name.partition('.')[0]}, which is not installed: install "
            "paceline[data], or convert it to .jsonl"
        ) from error
