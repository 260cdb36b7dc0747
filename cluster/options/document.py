"""Build a verb's options: defaults, then its TOML file, then `--set`, then the command line.

Every error names the place of the value: the flag, `--set KEY`, or the file and the key.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from cluster.options.paths import check_path
from cluster.options.schema import Env, Setting, is_among, sections_of, settings_of
from runtime.checking.tables import make
from runtime.errors import ConfigError
from runtime.files.documents import DocumentError, parse_toml, read_toml

_Options = TypeVar("_Options")
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")


@dataclass(frozen=True, slots=True)
class _Given:
    """A value, and how an error names its place."""

    value: object
    name: str


@dataclass(slots=True)
class OptionsDraft:
    """What was given for a verb's settings so far; what is added later wins."""

    options: type
    flags: Mapping[str, str]
    """Names on the command line by key; other keys are for files and `--set`."""
    fixed: frozenset[str] = frozenset()
    """Keys, or whole sections, that the verb does not accept."""
    _given: dict[str, _Given] = field(default_factory=dict)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Add the values of environment variables that settings name."""
        for key, setting in self._settings().items():
            variable = setting.mark(Env)
            if variable is not None and environ.get(variable.name):
                text = environ[variable.name]
                self._given[key] = _Given(from_text(setting, text), variable.name)

    def add_file(self, file: Path) -> None:
        """Add the values of a TOML file.

        Raises:
            ConfigError: it cannot be read, or has an unknown key; names the file.
        """
        self._add_table(read_toml(file, kind="--config"), "", f"--config {file}:")

    def add_assignments(self, assignments: Iterable[str]) -> None:
        """Add `section.key=value` texts of `--set`.

        Raises:
            ConfigError: one has another form, an unknown key, or no value.
        """
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            key, text = key.strip(), text.strip()
            if not separator:
                raise ConfigError(f"--set {assignment!r}: write key=value, as section.key=value")
            if not text:
                raise ConfigError(f"--set {key} is empty: give a value, or leave it out")
            setting = self._known(key, "--set")
            self._given[key] = _Given(_toml_or_text(setting, text), f"--set {key}")

    def add_flag(self, key: str, value: object) -> None:
        """Add what the command line has: a text, texts, or a bool."""
        setting = self._settings()[key]
        if isinstance(value, str):
            value = from_text(setting, value)
        elif isinstance(value, list | tuple):
            value = [_item(setting, one) for one in value]
        self._given[key] = _Given(value, self.flags[key])

    def add_rest(self, key: str, arguments: Sequence[str]) -> None:
        """Add the arguments that a verb passes on, as they are."""
        self._given[key] = _Given(list(arguments), key)

    def name_of(self, key: str) -> str:
        """Return how an error names a key: by its place, or where it could have been given."""
        found = self._given.get(key)
        return found.name if found else self.flags.get(key, f"--set {key}")

    def _settings(self) -> dict[str, Setting]:
        found = settings_of(self.options)
        return {key: setting for key, setting in found.items() if not is_among(key, self.fixed)}

    def _add_table(self, table: Mapping[str, Any], prefix: str, where: str) -> None:
        for name, value in table.items():
            key = prefix + name
            if key in sections_of(self.options):
                if not isinstance(value, dict):
                    raise ConfigError(f"{where} {key} is a section: write [{key}]")
                self._add_table(value, f"{key}.", where)
                continue
            self._known(key, where)
            self._given[key] = _Given(value, f"{where} {key}")

    def _known(self, key: str, where: str) -> Setting:
        settings = self._settings()
        if key in settings:
            return settings[key]
        if is_among(key, self.fixed):
            raise ConfigError(f"{where} {key} has one value in this verb: leave it out")
        if key in sections_of(self.options):
            inner = next((name for name in settings if is_among(name, {key})), f"{key}.KEY")
            raise ConfigError(f"{where} {key} is a section: name one of its keys, as {inner}")
        raise ConfigError(f"{where} unknown key {key}; {_hint(key, settings)}")

    def build(self, kind: type[_Options]) -> _Options:
        """Return the options.

        Args:
            kind: the options dataclass.

        Raises:
            ConfigError: a value is missing, has another type, is out of range, or is a path that
                does not serve.
        """
        table: dict[str, Any] = {name: {} for name in sections_of(kind) if "." not in name}
        for key, given in self._given.items():
            *sections, name = key.split(".")
            inner = table
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[name] = given.value
        options = make(kind, table, name=self.name_of)
        for key, setting in self._settings().items():
            if setting.path_use is not None:
                for path in _paths(options, key):
                    check_path(path, setting.path_use, self.name_of(key))
        return options


def from_text(setting: Setting, text: str) -> object:
    """Return a command line's text as the value that the setting's type has in a file."""
    if not setting.is_list:
        return _item(setting, text)
    return [_item(setting, part.strip()) for part in text.split(",")]


def _item(setting: Setting, text: str) -> object:
    if setting.kind is int and _INTEGER.fullmatch(text):
        return int(text)
    if setting.kind is float:
        try:
            return float(text)
        except ValueError:
            return text
    if setting.kind is bool:
        return {"true": True, "false": False}.get(text, text)
    return text


def _toml_or_text(setting: Setting, text: str) -> object:
    """Return a TOML string or list, or else the unchanged text."""
    if text[0] in "\"'" or (setting.is_list and text[0] == "["):
        try:
            return parse_toml(f"value = {text}", "--set")["value"]
        except DocumentError:
            pass
    return from_text(setting, text)


def _paths(options: object, key: str) -> tuple[Path, ...]:
    value: Any = options
    for name in key.split("."):
        value = getattr(value, name)
    if value is None:
        return ()
    return tuple(value) if isinstance(value, tuple) else (value,)


def _hint(key: str, settings: Mapping[str, Setting]) -> str:
    same_name = [known for known, setting in settings.items() if setting.name == key]
    near = same_name or get_close_matches(key, settings, n=1)
    if not near:
        names = get_close_matches(key, {setting.name for setting in settings.values()}, n=1)
        near = [known for known, setting in settings.items() if setting.name in names]
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(settings)}"
