"""Corpus files: JSON lines of prompts with the target's answers."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from runtime.checking.prompt_value import token_ids
from runtime.checking.values import flag, text, whole_number
from runtime.errors import ConfigError, InvalidValue
from runtime.files.documents import read_text
from runtime.files.strict_json import parse_object


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRecord:
    """One prompt with the target's answer."""

    index: int
    source: str
    """The origin of the prompt: a category, a file name, "free" or "served"."""
    greedy: bool
    """Whether the answer is the target's most probable one, or sampled at temperature 1."""
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]


def append_records(out: TextIO, records: Iterable[CorpusRecord]) -> None:
    """Write records, one to a line, and flush."""
    for record in records:
        out.write(record_line(record))
    out.flush()


def record_line(record: CorpusRecord) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(asdict(record), separators=(",", ":")) + "\n"


def read_corpus(file: Path) -> list[CorpusRecord]:
    """Return the records of a corpus, sorted by index; an empty list if there is no file.

    Drop a last line without a newline: the run was interrupted while it wrote that line.

    Raises:
        ConfigError: a line is not a record; the message names the line.
    """
    if not file.is_file():
        return []
    whole, _, rest = read_text(file).rpartition("\n")
    if rest:
        file.write_text(whole + "\n" if whole else "", encoding="utf-8")
    records = {}
    for number, line in enumerate(whole.split("\n") if whole else (), start=1):
        record = parse_record(line, f"{file}, line {number}")
        records[record.index] = record
    return [records[index] for index in sorted(records)]


def parse_record(line: str, where: str) -> CorpusRecord:
    """Return the record on one line.

    Args:
        line: the JSON text.
        where: the file and line, for error messages.

    Raises:
        ConfigError: the line is not a record.
    """
    fields = parse_object(line, where)
    try:
        return CorpusRecord(
            index=whole_number(fields["index"], "index", minimum=0),
            source=text(fields["source"], "source"),
            greedy=flag(fields["greedy"], "greedy"),
            prompt_ids=token_ids(fields["prompt_ids"], "prompt_ids", may_be_empty=True),
            output_ids=token_ids(fields["output_ids"], "output_ids", may_be_empty=True),
        )
    except KeyError as error:
        raise ConfigError(f"{where}: not a corpus record: {error} is missing") from error
    except InvalidValue as error:
        raise ConfigError(f"{where}: not a corpus record: {error}") from error
