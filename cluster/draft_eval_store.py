"""What `paceline draft eval` has measured, a line for each drafter and prompt, to go on from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.session import Result
from parallel.messages import RequestStats, Submit
from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One prompt, plain and drafted."""

    category: str
    plain: Result
    drafted: Result


class EvalStore:
    """Pairs in a file of JSON lines, whose first says how they were measured."""

    def __init__(self, file: Path, config: Mapping[str, object]) -> None:
        """Open the file, or begin it; a line that a cut run left half written is dropped.

        Raises:
            ConfigError: it is of another kind of run, or cannot be read or written.
        """
        self._file = file
        try:
            text = file.read_text() if file.exists() else ""
            whole = text[: text.rfind("\n") + 1] if text else json.dumps(config) + "\n"
            first, *lines = [json.loads(line) for line in whole.splitlines()]
            self._known = {(line["drafter"], line["prompt"]): line for line in lines}
        except OSError as error:
            raise ConfigError(f"--keep {file}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--keep {file} holds no figures of draft eval: {error!r}") from error
        if first != dict(config):
            raise ConfigError(f"--keep {file} was measured with {first}, not {dict(config)}")
        try:
            file.write_text(whole)  # only now: what is not ours stays as it was
        except OSError as error:
            raise ConfigError(f"--keep {file}: {error}") from error

    def find(self, drafter: str, submit: Submit, category: str) -> Pair | None:
        """Return what is known of a drafter on a prompt."""
        known = self._known.get((drafter, _key(submit)))
        if known is None:
            return None
        plain, drafted = (_result(submit, known[kind]) for kind in ("plain", "drafted"))
        return Pair(category=category, plain=plain, drafted=drafted)

    def keep(self, drafter: str, pair: Pair) -> None:
        """Add a pair; it is on disk at once."""
        line = {
            "drafter": drafter,
            "prompt": _key(pair.plain.submit),
            "plain": _fields(pair.plain),
            "drafted": _fields(pair.drafted),
        }
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _key(submit: Submit) -> str:
    return hashlib.sha256(json.dumps(submit.prompt_ids).encode()).hexdigest()[:16]


def _fields(result: Result) -> dict[str, object]:
    return {"token_ids": result.token_ids, "stats": asdict(result.stats)}


def _result(submit: Submit, fields: dict[str, Any]) -> Result:
    stats: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in fields["stats"].items()
    }
    return Result(submit=submit, token_ids=fields["token_ids"], stats=RequestStats(**stats))
