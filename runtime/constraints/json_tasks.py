"""Tasks whose answers are JSON: prompts, each with the schema of its answer."""

from dataclasses import dataclass
from pathlib import Path

from parallel.decoding.types import ConstraintSpec
from runtime.checking.constraint_fields import constraint_of
from runtime.checking.values import text
from runtime.errors import ConfigError, InvalidValue
from runtime.files.strict_json import read_json_lines

JSON_TASKS = Path(__file__).with_name("json_tasks.jsonl")
"""Extraction, classification and generation of records, written for this package."""
_KEYS = {"prompt", "json_schema"}


@dataclass(frozen=True, slots=True)
class JsonTask:
    """A prompt, and what its answer must satisfy."""

    prompt: str
    constraint: ConstraintSpec


def read_json_tasks(file: Path, *, limit: int | None) -> list[JsonTask]:
    """Read the tasks of a .jsonl file.

    Args:
        file: a line has `prompt` and `json_schema`, a schema.
        limit: how many are read, the first ones; None reads all.

    Raises:
        ConfigError: the file cannot be read or has no task, or a line is invalid; names the line.
    """
    found: list[JsonTask] = []
    for line, record in read_json_lines(file, kind="task file"):
        if len(found) == limit:
            break
        try:
            found.append(_task(record))
        except InvalidValue as error:
            raise ConfigError(f"{file}, line {line}: {error}") from error
    if not found:
        raise ConfigError(f"the task file {file} is empty: write prompt and json_schema a line")
    return found


def _task(record: dict[str, object]) -> JsonTask:
    if record.keys() != _KEYS:
        given = ", ".join(sorted(record)) or "none"
        raise InvalidValue(f"its fields are {given}: write prompt and json_schema")
    schema = record["json_schema"]
    if not isinstance(schema, dict | bool):
        raise InvalidValue("json_schema is no schema: write an object")
    constraint = constraint_of(json_schema=schema)
    assert constraint is not None
    return JsonTask(text(record["prompt"], "prompt"), constraint)
