"""The set of JSON schemas that constraints are measured on: written here, kept in tests/data.

python -m tests.support.schema_set

Every instance is checked by jsonschema when it is written. Members of objects come in the order
of their schema: engines that fix the order are not charged for it.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.support.schema_families import FAMILIES
from tests.support.schema_pieces import MAX_VALUES, Piece

FILE = Path(__file__).resolve().parent.parent / "data" / "schema_set.jsonl"
SIZES = {"trivial": 10, "easy": 30, "medium": 100, "hard": 500, "ultra": 10**9}
"""Fields of a schema below which it has the name: the split of JSONSchemaBench's largest part."""


@dataclass(frozen=True)
class Case:
    """A schema, and texts that conform to it or do not."""

    name: str
    size: str
    schema: Any
    valid: tuple[str, ...]
    invalid: tuple[str, ...]

    @property
    def family(self) -> str:
        return self.name.partition("-")[0]

    @property
    def keywords(self) -> set[str]:
        return {keyword for part in parts(self.schema) for keyword in part}


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs", "patternProperties"):
            inner: list[Any] = list(value.values())
        elif keyword in ("const", "enum", "default", "required", "dependentRequired"):
            inner = []
        else:
            inner = value if isinstance(value, list) else [value]
        for one in inner:
            yield from parts(one)


def validator(schema: Any) -> Draft202012Validator:
    """Return what decides whether a value conforms."""
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


@cache
def read_cases() -> tuple[Case, ...]:
    """Return the set."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return tuple(
        Case(**row | {"valid": tuple(row["valid"]), "invalid": tuple(row["invalid"])})
        for row in map(json.loads, lines)
    )


def written() -> str:
    """Return the file of the set."""
    rows = []
    for family, make in FAMILIES.items():
        for number, piece in enumerate(make(), 1):
            rows.append(json.dumps(_row(f"{family}-{number}", piece), ensure_ascii=False))
    return "\n".join(rows) + "\n"


def tally(cases: tuple[Case, ...]) -> Counter[str]:
    """Return how many schemas use each keyword."""
    return Counter(keyword for case in cases for keyword in case.keywords)


def _row(name: str, piece: Piece) -> dict[str, Any]:
    schema = piece.schema
    if piece.definitions:
        schema = schema | {"$defs": dict(piece.definitions)}
    decides = validator(schema)
    valid = [_text(one) for one in piece.good if decides.is_valid(one)]
    invalid = [_text(one) for one in piece.bad if not decides.is_valid(one)]
    num_fields = sum(len(part.get("properties", {})) for part in parts(schema))
    return {
        "name": name,
        "size": next(size for size, below in SIZES.items() if num_fields < below),
        "schema": schema,
        "valid": list(dict.fromkeys(valid))[:MAX_VALUES],
        "invalid": list(dict.fromkeys(invalid))[:MAX_VALUES],
    }


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
    cases = read_cases()
    print(f"{len(cases)} schemas in {FILE.name}: {dict(Counter(case.size for case in cases))}")
    for keyword, num in tally(cases).most_common():
        print(f"{num:4d} {keyword}")
