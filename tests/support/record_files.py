"""The same records as JSON lines, as a table and as a saved data set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet


def in_lines(records: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write JSON lines, with a byte-order mark and an empty line after each; return the file."""
    file = folder / "data.jsonl"
    file.write_text("\ufeff" + "".join(json.dumps(record) + "\n\n" for record in records))
    return file


def in_parquet(records: Sequence[dict[str, Any]], folder: Path, *, group_size: int) -> Path:
    """Write a table in groups of so many rows; return the file."""
    file = folder / "data.parquet"
    table = pyarrow.Table.from_pylist(list(records))
    pyarrow.parquet.write_table(table, file, row_group_size=group_size)
    return file


def in_data_set(records: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Save a data set; return its directory."""
    directory = folder / "data"
    datasets.Dataset.from_list(list(records)).save_to_disk(str(directory))
    return directory
