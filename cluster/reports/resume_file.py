"""A file of the figures of a long measurement, from which an interrupted run resumes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.deploy.driver_session import Result
from parallel.messages import RequestStats, Submit
from runtime.errors import ConfigError
from runtime.files.documents import read_text
from runtime.files.strict_json import parse_json


class ResumeFile:
    """Figures by key in a file of JSON lines; the first line is the configuration."""

    def __init__(self, file: Path | None, config: Mapping[str, object], *, verb: str) -> None:
        """Open or create the file; drops the last line if it is incomplete.

        Args:
            file: what `keep` names; None stores nothing.
            config: settings that must be equal for figures to be comparable; JSON's types only.
            verb: the command, for messages.

        Raises:
            ConfigError: it belongs to another kind of run, or cannot be read or written.
        """
        self._file = file
        self._known: dict[str, dict[str, Any]] = {}
        if file is None:
            return
        header = {"verb": verb, **config}
        try:
            text = read_text(file, kind="`keep`") if file.exists() else ""
            whole = text[: text.rfind("\n") + 1] if text else json.dumps(header) + "\n"
            first, *lines = [parse_json(line, finite=False) for line in whole.splitlines()]
            self._known = {line["key"]: line["figures"] for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"`keep` is {file}: it holds no figures of {verb}: {error!r}"
            ) from error
        if first != header:
            raise ConfigError(
                f"`keep` is {file}: it {_difference(first, header)}: name another file"
            )
        try:
            file.write_text(whole, encoding="utf-8")  # only now: a foreign file stays unchanged
        except OSError as error:
            raise ConfigError(f"`keep` is {file}: {error}") from error

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the figures stored under a key."""
        return self._known.get(key)

    def store(self, key: str, figures: Mapping[str, object]) -> None:
        """Add figures and write them to disk."""
        if self._file is None:
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "figures": dict(figures)}) + "\n")


def _difference(first: object, header: Mapping[str, object]) -> str:
    if not isinstance(first, dict):
        return "holds other figures"
    names = [name for name in {**first, **header} if first.get(name) != header.get(name)]
    there = ", ".join(f"{name}={first.get(name)!r}" for name in names)
    here = ", ".join(f"{name}={header.get(name)!r}" for name in names)
    return f"was measured with {there}, not {here}"


def prompts_key(submits: Sequence[Submit]) -> str:
    """Return a key that identifies prompts."""
    prompts = json.dumps([submit.prompt_ids for submit in submits])
    return hashlib.sha256(prompts.encode()).hexdigest()[:16]


def result_fields(result: Result) -> dict[str, object]:
    """Return the stored fields of a result."""
    return {"token_ids": result.token_ids, "stats": asdict(result.stats)}


def as_result(submit: Submit, fields: Mapping[str, Any]) -> Result:
    """Return the stored result."""
    stats: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in fields["stats"].items()
    }
    return Result(submit=submit, token_ids=fields["token_ids"], stats=RequestStats(**stats))
