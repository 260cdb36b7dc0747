"""From a TOML or JSON table to a dataclass: unknown keys and other types are refused, by name."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

from runtime.checking.values import describe, number
from runtime.errors import ConfigError

_KINDS = {
    int: "an integer",
    bool: "true or false",
    str: "a string",
    bytes: "bytes",
}


def make(kind: type, table: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a dataclass of what a table says; sections are dataclasses in it.

    Raises:
        ConfigError: a key is unknown or missing, a value has another type, or a number is not
            finite; names the key.
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
        elif part.default is MISSING and part.default_factory is MISSING:
            raise ConfigError(f"the configuration lacks {prefix}{part.name}")
    return kind(**values)


def _value(kind: Any, value: object, name: str) -> object:
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is a section: write [{name}]")
        assert isinstance(kind, type)
        return make(kind, value, f"{name}.")
    origin, parts = get_origin(kind), get_args(kind)
    if origin is list:
        return _list(parts[0], value, name)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is {describe(value)}: write a table, as {{ key = ... }}")
        return {key: _value(parts[1], held, f"{name}.{key}") for key, held in value.items()}
    if kind is float:
        return number(value, name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{name} is {describe(value)}: it must be {_KINDS[kind]}")
    return value


def _list(kind: Any, value: object, name: str) -> list[object]:
    if isinstance(value, str):
        raise ConfigError(f'{name} is {value!r}: write a list, as ["{value}"]')
    if not isinstance(value, list):
        raise ConfigError(f"{name} is {describe(value)}: write a list")
    return [_value(kind, held, f"{name}[{place}]") for place, held in enumerate(value)]
