"""From a TOML or JSON table to a dataclass: unknown keys and other types are refused, by name."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints

from runtime.errors import ConfigError


def make(kind: type, table: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a dataclass of what a table says; sections are dataclasses in it.

    Raises:
        ConfigError: a key is not known, or a value has another type; names the key.
    """
    known = get_type_hints(kind)
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"the configuration has an unknown key {prefix}{key}; {hint}")
    values = {}
    for part in fields(kind):
        if part.name in table:
            values[part.name] = _value(known[part.name], table[part.name], prefix + part.name)
    return kind(**values)


def _value(kind: Any, value: object, name: str) -> object:
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is a section: write [{name}]")
        assert isinstance(kind, type)
        return make(kind, value, f"{name}.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = getattr(kind, "__origin__", kind)
    if plain is list and isinstance(value, str):
        raise ConfigError(f'{name} is {value!r}: it has to be a list, as ["{value}"]')
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise ConfigError(f"{name} is {value!r}: it has to be of type {plain.__name__}")
    if kind == list[str] and not all(isinstance(part, str) for part in value):
        raise ConfigError(f'{name} is {value!r}: it has to be a list of texts, as ["q_proj"]')
    return value
