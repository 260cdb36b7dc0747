"""Make a dataclass from a TOML or JSON table; unknown keys and wrong types are rejected by name.

A field's type is an int, float, bool, str, bytes, Path, Literal, StrEnum or dataclass (a section),
a list, a tuple of any length or a dict of these, or one of them `| None`. `Annotated` adds a
`Range`, or with `Unset` the word that stands for None where the format has no null.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from runtime.checking.values import describe, number, text
from runtime.errors import ConfigError

_Made = TypeVar("_Made")
_KINDS = {
    int: "an integer",
    bool: "true or false",
    bytes: "bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The numbers that a field accepts."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        """Return whether a number is accepted."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return the bounds in words, as "at least 1"."""
        bounds = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        return " and ".join(
            f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None
        )


@dataclass(frozen=True, slots=True)
class Unset:
    """The word for None in a field that may be None."""

    word: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word for a value that cannot be written otherwise, as an infinite one."""

    word: str
    value: float


def make(
    kind: type[_Made],
    table: Mapping[str, Any],
    prefix: str = "",
    *,
    base: _Made | None = None,
    name: Callable[[str], str] = str,
) -> _Made:
    """Return a dataclass with the values of a table; nested tables are sections.

    Args:
        kind: the dataclass.
        table: its values by field name.
        prefix: the section's name and a dot, for errors.
        base: has the values of the fields that the table leaves out; None takes the defaults.
        name: returns how an error names a dotted key.

    Raises:
        ConfigError: a key is unknown or missing, a value has another type, or a number is not
            finite or out of range; names the key.
    """
    known = get_type_hints(kind, include_extras=True)
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown key {name(prefix + key)}; {hint}")
    values = {}
    for part in fields(cast("Any", kind)):
        key = prefix + part.name
        if part.name in table:
            default = _default(base, part)
            values[part.name] = _value(known[part.name], table[part.name], key, name, default)
        elif base is None and part.default is MISSING and part.default_factory is MISSING:
            raise ConfigError(f"{name(key)} is missing: give a value")
    return kind(**values) if base is None else cast("_Made", replace(cast("Any", base), **values))


def _default(base: object, part: Any) -> object:
    """Return the section that a table's keys change."""
    if base is not None:
        return getattr(base, part.name)
    if part.default is not MISSING:
        return part.default
    return None if part.default_factory is MISSING else part.default_factory()


def _value(
    kind: Any, value: object, key: str, name: Callable[[str], str], base: object = None
) -> object:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _ruled(parts[0], parts[1:], value, key, name)
    if origin in (Union, UnionType):
        (inner,) = (part for part in parts if part is not NoneType)
        return None if value is None else _value(inner, value, key, name, base)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{name(key)} is a section: write [{key}]")
        assert isinstance(kind, type)
        return make(kind, value, f"{key}.", base=base, name=name)
    if origin in (list, tuple):
        found = _list(parts[0], value, key, name)
        return found if origin is list else tuple(found)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(
                f"{name(key)} is {describe(value)}: write a table, as {{ key = ... }}"
            )
        return {k: _value(parts[1], held, f"{key}.{k}", name) for k, held in value.items()}
    return _single(kind, value, name(key))


def _ruled(
    kind: Any, rules: tuple[object, ...], value: object, key: str, name: Callable[[str], str]
) -> object:
    """Return a value that keeps to the rules of an `Annotated` type."""
    for rule in rules:
        if isinstance(rule, Unset) and value == rule.word:
            return None
        if isinstance(rule, Word) and value == rule.word:
            return rule.value
    found = _value(kind, value, key, name)
    for rule in rules:
        if isinstance(rule, Range) and isinstance(found, int | float) and found not in rule:
            unset = "".join(f", or {each.word}" for each in rules if isinstance(each, Unset))
            raise ConfigError(f"{name(key)} is {found}: it must be {rule}{unset}")
    return found


def _single(kind: Any, value: object, name: str) -> object:
    if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, StrEnum)):
        choices = get_args(kind) or tuple(kind)
        if value not in choices:
            shown = repr(value) if isinstance(value, str) else describe(value)
            raise ConfigError(f"{name} is {shown}: choose one of {', '.join(map(str, choices))}")
        return value if get_args(kind) else kind(value)
    if kind is float:
        return number(value, name)
    if kind is Path:
        return Path(text(value, name))
    if kind is str:
        return text(value, name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{name} is {describe(value)}: it must be {_KINDS[kind]}")
    return value


def _list(kind: Any, value: object, key: str, name: Callable[[str], str]) -> list[object]:
    if isinstance(value, str):
        raise ConfigError(f'{name(key)} is {value!r}: write a list, as ["{value}"]')
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name(key)} is {describe(value)}: write a list")

    def item_name(item: str) -> str:
        return name(key) + item.removeprefix(key)

    return [_value(kind, held, f"{key}[{i}]", item_name) for i, held in enumerate(value)]
