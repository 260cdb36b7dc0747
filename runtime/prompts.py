"""Prompt files: JSON lines as Spec-Bench, HumanEval, GSM8K and chat data sets have them."""

import json
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError

_TEXT_FIELDS = ("prompt", "text", "question")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """One prompt: plain text, or a conversation."""

    index: int
    text: str | None = None
    messages: tuple[dict[str, str], ...] | None = None
    category: str | None = None


def read_prompts(path: Path, *, limit: int | None = None) -> list[PromptRecord]:
    """Read the prompts of a .jsonl file, at most `limit` of them; blank lines are skipped.

    A line is an object with `prompt`, `text`, `question`, `turns` (the first counts) or `messages`.

    Raises:
        ConfigError: the file is missing or holds no prompt, or a line is unusable; names the line.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--num-prompts is {limit}: take at least 1")
    # Not splitlines: JSON strings may hold U+2028 and other characters it splits at.
    lines = _read(path, "prompt file").split("\n")
    records: list[PromptRecord] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if limit is not None and len(records) == limit:
            break
        records.append(_record(line, len(records), f"{path}, line {number}"))
    if not records:
        raise ConfigError(f"prompt file {path} is empty: write one JSON object a line")
    return records


def read_texts(path: Path) -> list[str]:
    """Read the texts of a file: a .jsonl file's string fields, any other file as one text.

    Raises:
        ConfigError: the file is missing, or a line is no JSON object; names the line.
    """
    whole = _read(path, "text file")
    if path.suffix != ".jsonl":
        return [whole] if whole.strip() else []
    texts: list[str] = []
    for number, line in enumerate(whole.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(fields, dict):
            raise ConfigError(f"{path}, line {number}: expected an object with texts")
        texts += _strings(fields)
    return texts


def _strings(fields: dict[str, object]) -> list[str]:
    """Return what an object says: its longer strings, those of its turns and messages too."""
    found: list[str] = []
    for value in fields.values():
        parts = value if isinstance(value, list) else [value]
        parts = [part.get("content") if isinstance(part, dict) else part for part in parts]
        found += [part for part in parts if isinstance(part, str) and " " in part]
    return found


def _read(path: Path, kind: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{kind} {path} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{kind} {path} is a directory: name a .jsonl file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{kind} {path} is not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{kind} {path} cannot be read: {error}") from error


def _record(line: str, index: int, where: str) -> PromptRecord:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{where}: a {type(fields).__name__}, expected an object with a prompt")
    category = fields.get("category")
    category = category if isinstance(category, str) else None
    if "messages" in fields:
        messages = _messages(fields["messages"], where)
        return PromptRecord(index=index, messages=messages, category=category)
    text = _text(fields, where)
    if not text.strip():
        raise ConfigError(f"{where}: the prompt is empty")
    return PromptRecord(index=index, text=text, category=category)


def _text(fields: dict[str, object], where: str) -> str:
    for name in _TEXT_FIELDS:
        if name in fields:
            return _string(fields[name], name, where)
    if "turns" in fields:
        turns = fields["turns"]
        if not isinstance(turns, list) or not turns:
            raise ConfigError(f"{where}: turns must be a list with at least one string")
        return _string(turns[0], "turns[0]", where)
    known = ", ".join((*_TEXT_FIELDS, "turns", "messages"))
    found = ", ".join(sorted(fields)) or "none"
    raise ConfigError(f"{where}: no prompt in its fields ({found}); it needs one of {known}")


def _string(value: object, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {name} is a {type(value).__name__}, expected a string")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise ConfigError(f"{where}: {name} holds half a surrogate pair, which is no character")
    return value


def _messages(value: object, where: str) -> tuple[dict[str, str], ...]:
    wanted = "messages must be a list of objects with string role and content"
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where}: {wanted}")
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ConfigError(f"{where}: {wanted}")
    return tuple(
        {name: _string(message[name], name, where) for name in ("role", "content")}
        for message in value
    )
