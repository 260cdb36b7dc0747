"""Pieces of JSON schemas with values that conform to them and values that do not."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Schema = Any
MAX_VALUES = 6


@dataclass(frozen=True)
class Piece:
    """A schema, and what an engine must accept and reject under it."""

    schema: Schema
    good: list[Any]
    bad: list[Any]
    definitions: Mapping[str, Schema] = field(default_factory=dict)


def text(good: Sequence[str] = ("", "a b", 'naïve "x"\n'), **keywords: Any) -> Piece:
    bad: list[Any] = [7, None]
    if "minLength" in keywords:
        bad.append("x" * (keywords["minLength"] - 1))
    if "maxLength" in keywords:
        bad.append("x" * (keywords["maxLength"] + 1))
    return Piece({"type": "string"} | keywords, list(good), bad)


def pattern(expression: str, good: Sequence[str], bad: Sequence[str]) -> Piece:
    return Piece({"type": "string", "pattern": expression}, list(good), [*bad, 3])


def formatted(name: str, good: Sequence[str], bad: Sequence[str]) -> Piece:
    return Piece({"type": "string", "format": name}, list(good), [*bad, 3])


def whole(good: Sequence[int] = (0, -7, 123456), bad: Sequence[Any] = (), **keywords: Any) -> Piece:
    return Piece({"type": "integer"} | keywords, list(good), [*bad, 1.5, "1"])


def number(
    good: Sequence[float] = (0, -1.5, 2e10), bad: Sequence[Any] = (), **keywords: Any
) -> Piece:
    return Piece({"type": "number"} | keywords, list(good), [*bad, "1", True])


def flag() -> Piece:
    return Piece({"type": "boolean"}, [True, False], [0, "true"])


def null() -> Piece:
    return Piece({"type": "null"}, [None], [0, "null"])


def choice(*values: Any) -> Piece:
    return Piece({"enum": list(values)}, list(values), ["none of these", 99.5])


def only(value: Any) -> Piece:
    return Piece({"const": value}, [value], ["another", 99.5])


def maybe(piece: Piece) -> Piece:
    """The piece or null, as a list of types."""
    kind = piece.schema["type"]
    bad = [value for value in piece.bad if value is not None]
    return replace(
        piece, schema=piece.schema | {"type": [kind, "null"]}, good=[*piece.good, None], bad=bad
    )


def array(item: Piece, least: int = 0, most: int = 3, **keywords: Any) -> Piece:
    good = [[one] * max(least, 1) for one in item.good]
    good.append(list(itertools.islice(itertools.cycle(item.good), max(least, min(most, 3)))))
    if not least:
        good.append([])
    bad: list[Any] = [[*item.good[:1] * max(least - 1, 0), one] for one in item.bad]
    bad.append([item.good[0]] * (most + 1))
    if least:
        bad.append([item.good[0]] * (least - 1))
    schema = {"type": "array", "items": item.schema, "minItems": least, "maxItems": most}
    return Piece(schema | keywords, good, [*bad, {}], item.definitions)


def pair(first: Piece, second: Piece) -> Piece:
    """An array of exactly two items."""
    good: list[Any] = [[a, b] for a, b in zip(first.good, second.good, strict=False)]
    bad: list[Any] = [[value, second.good[0]] for value in first.bad]
    bad += [[first.good[0]], [first.good[0], second.good[0], 1]]
    schema = {
        "type": "array",
        "prefixItems": [first.schema, second.schema],
        "items": False,
        "minItems": 2,
    }
    return Piece(schema, good, bad, {**first.definitions, **second.definitions})


def record(
    required: Mapping[str, Piece],
    optional: Mapping[str, Piece] | None = None,
    *,
    is_open: bool = False,
    **keywords: Any,
) -> Piece:
    """An object whose properties come in the order of the schema."""
    optional = optional or {}
    members = {**required, **optional}
    base = {name: piece.good[0] for name, piece in required.items()}
    full = {name: piece.good[-1] for name, piece in members.items()}
    good: list[Any] = [base, full]
    good += [_with(base, full, name, value) for name, p in members.items() for value in p.good[1:2]]
    bad: list[Any] = [
        _with(base, full, name, value) for name, piece in members.items() for value in piece.bad[:2]
    ]
    bad += [{key: base[key] for key in base if key != name} for name in required]
    if not is_open:
        bad.append(full | {"unknown member": 1})
    schema = {
        "type": "object",
        "properties": {name: piece.schema for name, piece in members.items()},
        "required": list(required),
        "additionalProperties": is_open,
    }
    definitions = {k: v for piece in members.values() for k, v in piece.definitions.items()}
    return Piece(schema | keywords, good, [*bad, []], definitions)


def mapping(value: Piece, **keywords: Any) -> Piece:
    """An object with any names and values of one kind."""
    good: list[Any] = [{}, *({"key": one} for one in value.good)]
    bad: list[Any] = [{"key": one} for one in value.bad]
    schema = {"type": "object", "additionalProperties": value.schema}
    return Piece(schema | keywords, good, [*bad, 3], value.definitions)


def either(*pieces: Piece, keyword: str = "anyOf") -> Piece:
    """One of some pieces; values of the others must not be among the bad ones."""
    definitions = {k: v for piece in pieces for k, v in piece.definitions.items()}
    return Piece(
        {keyword: [piece.schema for piece in pieces]},
        [one for piece in pieces for one in piece.good],
        [one for piece in pieces for one in piece.bad],
        definitions,
    )


def both(piece: Piece, other: Piece) -> Piece:
    """What conforms to two pieces."""
    return Piece(
        {"allOf": [piece.schema, other.schema]},
        [*piece.good, *other.good],
        [*piece.bad, *other.bad],
        {**piece.definitions, **other.definitions},
    )


def named(name: str, piece: Piece) -> Piece:
    """A reference to a definition."""
    definitions = {**piece.definitions, name: piece.schema}
    return Piece({"$ref": f"#/$defs/{name}"}, piece.good, piece.bad, definitions)


def tree(value: Piece, name: str = "node") -> Piece:
    """A definition that refers to itself."""
    leaf = {"value": value.good[0], "children": []}
    schema = {
        "type": "object",
        "properties": {
            "value": value.schema,
            "children": {"type": "array", "items": {"$ref": f"#/$defs/{name}"}},
        },
        "required": ["value", "children"],
        "additionalProperties": False,
    }
    good = [leaf, {"value": value.good[-1], "children": [leaf, {**leaf, "children": [leaf]}]}]
    bad = [
        {"value": value.good[0]},
        {"value": value.good[0], "children": [3]},
        {"value": value.good[0], "children": [{"value": value.good[0]}]},
        *({"value": one, "children": []} for one in value.bad[:2]),
    ]
    definitions = {**value.definitions, name: schema}
    return Piece({"$ref": f"#/$defs/{name}"}, good, bad, definitions)


def extended(piece: Piece, good: Sequence[Any], bad: Sequence[Any], **keywords: Any) -> Piece:
    """A piece with more keywords, and values chosen for them."""
    return replace(piece, schema=piece.schema | keywords, good=list(good), bad=list(bad))


def _with(base: dict[str, Any], full: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return the base with one member of another value, in the schema's order."""
    return {key: value if key == name else full[key] for key in full if key in base or key == name}
