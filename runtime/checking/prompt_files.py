"""Prompt files: JSON lines in the layouts of Spec-Bench, HumanEval, GSM8K and chat data sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from runtime.checking.chat_messages import EXTRA_KEYS, Message, check_beside, messages
from runtime.checking.values import items, text
from runtime.errors import ConfigError, InvalidValue
from runtime.files.documents import read_text
from runtime.files.strict_json import read_json_lines

_PROMPT_FIELDS = ("prompt", "text", "question", "turns", "messages")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """One prompt: plain text, or a conversation."""

    index: int
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    category: str | None = None
    where: str = field(default="the prompt", compare=False)
    """Names the file and the line in an error."""


def read_prompts(
    path: Path, *, limit: int | None = None, extra_keys: tuple[str, ...] = EXTRA_KEYS
) -> list[PromptRecord]:
    """Read the prompts of a .jsonl file, at most `limit` of them; blank lines are skipped.

    A line is an object with one of `prompt`, `text`, `question`, `turns` (the first counts) or
    `messages`.

    Args:
        path: the file.
        limit: how many prompts are read; None reads all.
        extra_keys: further keys of messages that the caller accepts.

    Raises:
        ConfigError: the file is missing or has no prompt, or a line is invalid; names the line.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"`num_prompts` is {limit}: it must be at least 1")
    records = [
        _record(fields, index, f"{path}, line {number}", extra_keys)
        for index, (number, fields) in enumerate(
            islice(read_json_lines(path, kind="prompt file"), limit)
        )
    ]
    if not records:
        raise ConfigError(f"prompt file {path} is empty: write one JSON object a line")
    return records


def read_texts(path: Path) -> list[str]:
    """Read the texts of a file: a .jsonl file's string fields, any other file as one text.

    Raises:
        ConfigError: the file is missing, or a line is not a JSON object; names the line.
    """
    if path.suffix == ".jsonl":
        lines = read_json_lines(path, kind="text file")
        return [found for _, fields in lines for found in _strings(fields)]
    whole = read_text(path, kind="text file")
    return [whole] if whole.strip() else []


def _strings(fields: dict[str, object]) -> list[str]:
    """Return the strings of an object that have several words, those of turns and messages too."""
    found: list[str] = []
    for value in fields.values():
        parts = value if isinstance(value, list) else [value]
        parts = [part.get("content") if isinstance(part, dict) else part for part in parts]
        found += [part for part in parts if isinstance(part, str) and " " in part]
    return found


def _record(
    fields: Mapping[str, object], index: int, where: str, extra_keys: tuple[str, ...]
) -> PromptRecord:
    try:
        category = fields.get("category")
        if category is not None:
            category = text(category, "category")
        check_beside(fields)
        name = _prompt_field(fields)
        if name == "messages":
            turns = messages(fields[name], extra_keys=extra_keys)
            return PromptRecord(index=index, messages=turns, category=category, where=where)
        prompt = _first_turn(fields[name]) if name == "turns" else text(fields[name], name)
        if not prompt.strip():
            raise InvalidValue(f"{name} is empty: write at least one word")
    except InvalidValue as error:
        raise ConfigError(f"{where}: {error}") from error
    return PromptRecord(index=index, text=prompt, category=category, where=where)


def _prompt_field(fields: Mapping[str, object]) -> str:
    given = [name for name in _PROMPT_FIELDS if fields.get(name) is not None]
    if len(given) > 1:
        raise InvalidValue(f"it has {' and '.join(given)}: keep the one that is the prompt")
    if not given:
        found = ", ".join(sorted(fields)) or "none"
        known = ", ".join(_PROMPT_FIELDS)
        raise InvalidValue(f"no prompt in its fields ({found}); it needs one of {known}")
    return given[0]


def _first_turn(turns: object) -> str:
    given = items(turns, "turns", "strings")
    if not given:
        raise InvalidValue("turns is empty: give at least one string")
    return text(given[0], "turns[0]")
