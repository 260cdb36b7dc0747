"""A table becomes a dataclass, and what does not fit is rejected by its key."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from runtime.checking.tables import Range, Unset, make
from runtime.errors import ConfigError


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    count: Annotated[int, Range(least=1)] = 3
    share: Annotated[float, Range(above=0, below=1)] = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = Inner(count=7)
    file: Path | None = None
    color: Color = Color.RED
    kind: Literal["a", "b"] = "a"
    limit: Annotated[int | None, Range(least=0), Unset("off")] = 5
    parts: tuple[int, ...] = ()
    words: dict[str, list[str]] = field(default_factory=dict)


def test_a_table_becomes_a_dataclass_with_its_types() -> None:
    table = {
        "name": "x",
        "file": "a/b",
        "color": "blue",
        "kind": "b",
        "limit": "off",
        "parts": [1, 2],
        "words": {"label": ["bad", "good"]},
    }
    made = make(Outer, table)
    assert made == Outer(
        name="x",
        file=Path("a/b"),
        color=Color.BLUE,
        kind="b",
        limit=None,
        parts=(1, 2),
        words={"label": ["bad", "good"]},
    )
    assert isinstance(made.color, Color)


def test_a_section_keeps_the_defaults_that_its_owner_gave_it() -> None:
    assert make(Outer, {"name": "x", "inner": {"share": 0.25}}).inner == Inner(count=7, share=0.25)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "name is missing"),
        ({"name": 3}, "name is 3: it must be a string"),
        ({"name": "x", "inner": 3}, r"inner is a section: write \[inner\]"),
        ({"name": "x", "inner": {"counts": 3}}, "key inner.counts; did you mean inner.count"),
        ({"name": "x", "inner": {"count": 0}}, "inner.count is 0: it must be at least 1"),
        ({"name": "x", "inner": {"count": True}}, "inner.count is True: it must be an integer"),
        ({"name": "x", "inner": {"share": 1}}, "inner.share is 1.0: it must be above 0 and below"),
        ({"name": "x", "inner": {"share": float("nan")}}, "inner.share is nan"),
        ({"name": "x", "color": "green"}, "color is 'green': choose one of red, blue"),
        ({"name": "x", "kind": "c"}, "kind is 'c': choose one of a, b"),
        ({"name": "x", "limit": -1}, "limit is -1: it must be at least 0, or off"),
        ({"name": "x", "limit": "on"}, "limit is 'on' .*: it must be an integer"),
        ({"name": "x", "parts": [1, "y"]}, r"parts\[1\] is 'y' .*: it must be an integer"),
        ({"name": "x", "parts": "1"}, r"parts is '1': write a list, as \[\"1\"\]"),
        ({"name": "x", "words": 3}, "words is 3: write a table"),
    ],
)
def test_what_does_not_fit_is_rejected_by_its_key(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(Outer, table)


def test_an_error_uses_the_name_that_the_caller_has_for_a_key() -> None:
    with pytest.raises(ConfigError, match=r"^--parts\[0\] is 'y'"):
        make(Outer, {"name": "x", "parts": ["y"]}, name=lambda key: f"--{key}")
