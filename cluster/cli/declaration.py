"""What a verb of the command line is: its options, the few of them that are flags, its function."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cluster.options.schema import Setting, doc_of, is_among, settings_of

_FIELD = re.compile(r"`([a-z][a-z0-9_.]*)(?:=([^`]*))?`")
"""A field, perhaps with a value."""
Options = TypeVar("Options")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerbDeclaration(Generic[Options]):
    """A verb, of which its command, its section of the reference and its errors are made."""

    name: str
    """Its words, as "bench decode"."""
    options: type[Options]
    """The dataclass of its settings; its docstring is the verb's help."""
    run: Callable[[Options], int]
    """Runs the verb and returns its exit code; a function of `cluster.cli.table`."""
    example: str
    """A command line that one can type."""
    arguments: tuple[str, ...] = ()
    """Keys that are given by position."""
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keys that are options of the command line, by heading of the help; "" is no heading."""
    fixed: tuple[str, ...] = ()
    """Keys, or whole sections, that this verb fixes at their default values."""
    passes_on: str | None = None
    """The key that receives unknown options and extra arguments, for another verb."""

    @property
    def settings(self) -> dict[str, Setting]:
        """All that can be set, by key."""
        hidden = {*self.fixed, self.passes_on}
        return {k: s for k, s in settings_of(self.options).items() if not is_among(k, hidden)}

    @property
    def flag_keys(self) -> tuple[str, ...]:
        """The keys that are options of the command line."""
        return tuple(key for keys in self.flags.values() for key in keys)

    @property
    def names(self) -> dict[str, str]:
        """What the command line calls its flags and arguments, by key."""
        settings = self.settings
        flags = {key: settings[key].flag for key in self.flag_keys}
        return flags | {key: settings[key].name.upper() for key in self.arguments}

    @property
    def has_more_settings(self) -> bool:
        """Whether some settings are for files and `--set` alone."""
        return len(self.names) < len(self.settings)

    @property
    def help(self) -> str:
        """What the verb does, and an example."""
        return f"{doc_of(self.options)}\n\nExample: paceline {self.name} {self.example}"

    def explain(self, message: str) -> str:
        """Return an error's message with fields in backticks as a user of this verb writes them.

        `field=value` becomes what sets it; other words in backticks stay as they are.
        """
        return _FIELD.sub(self._explained, message)

    def key_without_flag(self, option: str) -> str | None:
        """Return the key that an unknown option may mean, as models.threads of --threads."""
        spelled = self._spelled(option.lstrip("-").replace("-", "_")) or ""
        return spelled.removeprefix("--set ") if spelled.startswith("--set ") else None

    def _explained(self, found: re.Match[str]) -> str:
        spelled = self._spelled(found[1])
        if spelled is None:
            return found[0]
        if found[2] is None:
            return spelled
        return f"{spelled}={found[2]}" if spelled.startswith("--set ") else f"{spelled} {found[2]}"

    def _spelled(self, name: str) -> str | None:
        """Return the flag, or `--set KEY`, of a field by the end of its key; None if none fits."""
        names = self.names
        keys = [key for key in self.settings if f".{key}".endswith(f".{name}")]
        if not keys:
            return None
        key = min(keys, key=lambda k: (k != name, k not in names, k.count(".")))
        return names.get(key, f"--set {key}")
