"""The constraint that a request states in one of five fields, checked as far as no tokenizer is
needed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.checking.values import describe, text, texts
from runtime.errors import ConfigError, InvalidValue
from runtime.files.strict_json import parse_json

MAX_TEXT = 65536
"""Characters of a schema, a regular expression or a grammar, or of all choices together."""
MAX_CHOICES = 1024
Schema = str | bool | Mapping[str, object]


def constraint_of(
    *,
    json_schema: Schema | None = None,
    json_object: bool = False,
    regex: str | None = None,
    grammar: str | None = None,
    choice: Sequence[str] | None = None,
    monitor: str | None = None,
    align: bool = False,
    close: bool = False,
) -> ConstraintSpec | None:
    """Return the constraint of a request; None without one.

    Args:
        json_schema: the schema, as JSON or as the value of it.
        json_object: whether the output is any JSON object.
        regex: a regular expression, in the syntax of Rust's, without look-around.
        grammar: a grammar in Lark's syntax.
        choice: texts, one of which is the output.
        monitor: module:function of a monitor that the server has.
        align: whether samples follow the model's own distribution given a legal output.
        close: whether the output is completed within `max_tokens`.

    Raises:
        InvalidValue: there are several, or one is empty, too long or no JSON, or `align` or `close`
            is set without any; names the field.
    """
    found = [
        _with_text(ConstraintKind.JSON_SCHEMA, None if json_schema is None else _json(json_schema)),
        ConstraintSpec(kind=ConstraintKind.JSON_OBJECT) if json_object else None,
        _with_text(ConstraintKind.REGEX, regex),
        _with_text(ConstraintKind.GRAMMAR, grammar),
        _choice(choice),
        _with_text(ConstraintKind.MONITOR, monitor),
    ]
    stated = [spec for spec in found if spec is not None]
    if len(stated) > 1:
        names = " and ".join(f"`{spec.kind}`" for spec in stated)
        raise InvalidValue(f"{names} are given: an output has one constraint")
    if not stated:
        if align:
            raise InvalidValue("`align` is about constrained samples: state a constraint too")
        if close:
            raise InvalidValue("`close` completes a constrained output: state a constraint too")
        return None
    return replace(stated[0], align=align, close=close)


def _with_text(kind: ConstraintKind, value: str | None) -> ConstraintSpec | None:
    if value is None:
        return None
    checked = text(value, f"`{kind}`")
    if not checked.strip():
        raise InvalidValue(f"`{kind}` is empty")
    _check_length(len(checked), kind)
    return ConstraintSpec(kind=kind, text=checked)


def _json(schema: Schema) -> str:
    """Return a schema as JSON."""
    if isinstance(schema, str):
        try:
            parse_json(schema)
        except ConfigError as error:
            raise InvalidValue(f"`json_schema` is {error}") from error
        return schema
    if not isinstance(schema, bool | Mapping):
        raise InvalidValue(f"`json_schema` is {describe(schema)}: give a schema")
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"`json_schema` is no JSON: {error}") from error


def _choice(value: Sequence[str] | None) -> ConstraintSpec | None:
    choices = () if value is None else texts(value, "`choice`")
    if not choices:
        return None
    if len(choices) > MAX_CHOICES:
        raise InvalidValue(f"`choice` has {len(choices)} texts: {MAX_CHOICES} at most")
    if "" in choices:
        raise InvalidValue(f"`choice`[{choices.index('')}] is empty: give a text")
    _check_length(sum(map(len, choices)), ConstraintKind.CHOICE)
    return ConstraintSpec(kind=ConstraintKind.CHOICE, choices=choices)


def _check_length(num: int, kind: ConstraintKind) -> None:
    if num > MAX_TEXT:
        raise InvalidValue(f"`{kind}` has {num} characters: {MAX_TEXT} at most")
