"""Corpus files: JSON lines of prompts and what the target answered."""

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
    """Where the prompt is from: a file's name, or "free"."""
    greedy: bool
    """Whether the answer is the target's most probable one, or sampled at temperature 1."""
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]


def append_records(out: TextIO, records: Iterable[CorpusRecord]) -> None:
    """Write records, a line each, and hand them to the operating system."""
    for record in records:
        out.write(record_line(record))
    out.flush()


def record_line(record: CorpusRecord) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(asdict(record), separators=(",", ":")) + "\n"


def read_corpus(file: Path) -> list[CorpusRecord]:
    """Return a corpus in the order of its indices; none if there is no file.

    A last line without an end was being written when a run was cut: it is dropped.

    Raises:
        ConfigError: a line is no record; names it.
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
    """Return the record of one line.

    Args:
        line: JSON.
        where: names it in an error.

    Raises:
        ConfigError: it is no record.
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
        raise ConfigError(f"{where}: no record of a corpus, it lacks {error}") from error
    except InvalidValue as error:
        raise ConfigError(f"{where}: no record of a corpus, {error}") from error
