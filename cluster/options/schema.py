"""The settings of a verb, read from its options dataclass: names, types, defaults, documentation.

A nested dataclass is a section, and the string below a field documents it. What a type cannot
express is in its `Annotated`: `Range` and `Unset` of `runtime.checking.tables`, and the marks
below.
"""

import ast
import inspect
import sys
from collections.abc import Collection, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from runtime.checking.tables import Range, Unset, Word

_Mark = TypeVar("_Mark")


class PathUse(Enum):
    """What a verb does with a path; `cluster.options.paths` checks it before anything starts."""

    INPUT_FILE = "a file to read"
    INPUT_DIRECTORY = "a directory to read"
    OUTPUT_FILE = "a file to write"
    PICTURE = "a .png to write"
    OUTPUT_DIRECTORY = "a directory to write to"
    NEW_DIRECTORY = "a directory that does not exist yet"


@dataclass(frozen=True, slots=True)
class Flag:
    """The name of a field on the command line, where the field's own name does not serve."""

    name: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """A list whose flag is repeated for each item; other lists are written with commas."""


@dataclass(frozen=True, slots=True)
class Env:
    """An environment variable that holds the value of a field left out everywhere else."""

    name: str


class _Required(Enum):
    REQUIRED = "required"


REQUIRED = _Required.REQUIRED
"""In place of a default."""

Positive = Annotated[int, Range(least=1)]
NotNegative = Annotated[int, Range(least=0)]
Seconds = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(least=0, most=1)]
InputFile = Annotated[Path, PathUse.INPUT_FILE]
InputDirectory = Annotated[Path, PathUse.INPUT_DIRECTORY]
OutputFile = Annotated[Path, PathUse.OUTPUT_FILE]
Picture = Annotated[Path, PathUse.PICTURE]
OutputDirectory = Annotated[Path, PathUse.OUTPUT_DIRECTORY]
NewDirectory = Annotated[Path, PathUse.NEW_DIRECTORY]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A field of a verb's options that holds a value."""

    key: str
    """Its dotted name in files and for `--set`, as models.max_batch."""
    kind: Any
    """Its type, of an item if it is a list; without None and marks."""
    is_list: bool
    may_be_none: bool
    default: object
    doc: str
    marks: tuple[object, ...]

    @property
    def name(self) -> str:
        """The field's name."""
        return self.key.rpartition(".")[2]

    @property
    def flag(self) -> str:
        """Its option on the command line; a duration's unit is not part of it."""
        given = self.mark(Flag)
        return given.name if given else "--" + self.name.removesuffix("_s").replace("_", "-")

    @property
    def summary(self) -> str:
        """The first sentence of its documentation."""
        end = self.doc.find(". ")
        return self.doc if end < 0 else self.doc[: end + 1]

    @property
    def path_use(self) -> PathUse | None:
        """What is done with a path."""
        return self.mark(PathUse)

    @property
    def default_text(self) -> str | None:
        """The default as one writes it; None if there is none to show."""
        if self.default is None:
            unset = self.mark(Unset)
            return unset.word if unset else None
        if self.default in (REQUIRED, "", ()):
            return None
        word = self.mark(Word)
        text = shown(self.default)
        return text if word is None else text.replace(shown(word.value), word.word)

    def mark(self, kind: type[_Mark]) -> _Mark | None:
        """Return the mark of a class that its type carries."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)


def shown(value: object) -> str:
    """Return a value as one writes it on the command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_of(options: type) -> dict[str, Setting]:
    """Return the settings of an options dataclass by key, in the order of its fields."""
    return _settings_by_key(options)


def sections_of(options: type) -> dict[str, type]:
    """Return the sections of an options dataclass by dotted name."""
    return dict(_sections(options, ""))


def is_among(key: str, names: Collection[str | None]) -> bool:
    """Return whether a key is one of the names, or belongs to a section that is one of them."""
    return key in names or any(name and key.startswith(f"{name}.") for name in names)


def doc_of(options: type) -> str:
    """Return the docstring of an options class as one paragraph a blank line."""
    return inspect.cleandoc(options.__doc__ or "")


@cache
def _settings_by_key(options: type) -> dict[str, Setting]:
    return {setting.key: setting for setting in _settings(options, "", None)}


def _sections(options: type, prefix: str) -> Iterator[tuple[str, type]]:
    for name, kind in get_type_hints(options).items():
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield prefix + name, kind
            yield from _sections(kind, f"{prefix}{name}.")


def _settings(options: type, prefix: str, base: object) -> Iterator[Setting]:
    hints = get_type_hints(options, include_extras=True)
    for part in fields(options):
        kind, key = hints[part.name], prefix + part.name
        default = _default(part) if base is None else getattr(base, part.name)
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _settings(kind, f"{key}.", None if default is REQUIRED else default)
            continue
        inner, marks = _unwrapped(kind)
        is_list = get_origin(inner) in (list, tuple)
        if is_list:
            inner, item_marks = _unwrapped(get_args(inner)[0])
            marks += item_marks
        yield Setting(
            key=key,
            kind=inner,
            is_list=is_list,
            may_be_none=NoneType in get_args(kind) or NoneType in get_args(_bare(kind)),
            default=default,
            doc=_field_docs(options).get(part.name, ""),
            marks=marks,
        )


def _default(part: Any) -> object:
    if part.default is not MISSING:
        return part.default
    return REQUIRED if part.default_factory is MISSING else part.default_factory()


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _unwrapped(kind: Any) -> tuple[Any, tuple[object, ...]]:
    """Return a type without None and `Annotated`, and the marks that it carried."""
    if get_origin(kind) is Annotated:
        inner, marks = _unwrapped(get_args(kind)[0])
        return inner, (*kind.__metadata__, *marks)
    if get_origin(kind) in (Union, UnionType):
        (part,) = (part for part in get_args(kind) if part is not NoneType)
        return _unwrapped(part)
    return kind, ()


@cache
def _field_docs(options: type) -> dict[str, str]:
    """Return the documentation of the fields that a class itself declares, by name."""
    return _module_docs(options.__module__).get(options.__name__, {})


@cache
def _module_docs(module: str) -> dict[str, dict[str, str]]:
    """Return what documents each field, by class: the string below it in the source."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _class_docs(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _class_docs(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        is_string = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_string:
            assert isinstance(below, ast.Expr)
            assert isinstance(below.value, ast.Constant)
            docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs


def choices_of(kind: Any) -> tuple[str, ...]:
    """Return the words that a Literal or an enum accepts; () for other types."""
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(map(str, kind)) if isinstance(kind, type) and issubclass(kind, Enum) else ()
