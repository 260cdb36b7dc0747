"""Families of JSON schemas, as services, events, resources and settings have them.

Each family is a few lines that make several schemas of growing size; `schema_set.py` writes them.
"""

from collections.abc import Callable, Iterator
from typing import Any

from tests.support.schema_pieces import (
    Piece,
    array,
    both,
    choice,
    either,
    extended,
    flag,
    formatted,
    mapping,
    maybe,
    named,
    null,
    number,
    only,
    pair,
    pattern,
    record,
    text,
    tree,
    whole,
)

NOUNS = (
    *("account", "basket", "course", "device", "engine", "flight", "garden", "harbor", "island"),
    *("jacket", "kettle", "ladder", "market", "needle", "office", "parcel", "quarry", "river"),
    *("signal", "ticket", "unit", "valley", "wagon", "yard", "zone"),
)
DATES = formatted("date", ["2024-02-29", "1999-12-31"], ["2024-13-01", "yesterday"])
TIMES = formatted("date-time", ["2024-02-29T23:59:59Z", "2001-01-01T00:00:00+01:00"], ["noon", "1"])
IDS = formatted(
    "uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "g23e4567-e89b-12d3-a456-42"]
)
MAILS = formatted("email", ["ann@example.org"], ["ann", "@example.org"])
LINKS = formatted("uri", ["https://example.org/a?b=1", "urn:x:y"], ["no link", ":"])
HOSTS = formatted("ipv4", ["127.0.0.1", "10.0.0.255"], ["256.1.1.1", "1.2.3"])
CODE = pattern("^[A-Z]{2}[0-9]{3}$", ["AB123", "ZZ000"], ["ab123", "AB12", "AB1234"])
SLUG = pattern("^[a-z]+(-[a-z0-9]+)*$", ["a", "red-7-car"], ["", "-a", "A"])
VERSION = pattern(r"^\d+\.\d+(\.\d+)?$", ["1.0", "10.2.33"], ["1", "1.0.", "v1.0"])
PORT = whole([1, 443, 65535], [0, 65536], minimum=1, maximum=65535)
SHARE = number([0, 0.25, 1], [-0.1, 1.01], minimum=0, maximum=1)
COLOR = choice("red", "green", "dark blue")
MIXED = choice("auto", 0, 1.5, True, None)


def calls() -> Iterator[Piece]:
    """Arguments of a function: a few strings, numbers and choices."""
    for size in range(1, 23):
        names = [NOUNS[(size + place) % len(NOUNS)] for place in range(1 + size % 6)]
        kinds = (text(), whole(), COLOR, flag(), number(), MAILS)
        members = {name: kinds[(size + place) % 6] for place, name in enumerate(names)}
        optional = {"note": text(description="Free text.")} if size % 3 == 0 else {}
        yield record(members, optional, title=f"call {size}")


def events() -> Iterator[Piece]:
    """Events of a tracker: flat, closed, with lengths, ranges and null."""
    for size in range(1, 21):
        members = {
            "event": only(f"{NOUNS[size]}_seen"),
            "id": IDS,
            "at": TIMES,
            "label": text(["ok", "x" * 5], minLength=1, maxLength=4 + size),
        }
        optional = {
            f"{NOUNS[place]}_count": maybe(whole([0, place], [-1, 10**6], minimum=0, maximum=9999))
            for place in range(size)
        }
        keywords: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        yield record(members, optional, **keywords)


def resources() -> Iterator[Piece]:
    """Resources of a cluster: nested, with maps of labels, lists and values of two types."""
    for size in range(1, 23):
        port = record({"port": PORT, "protocol": choice("TCP", "UDP")}, {"name": SLUG})
        container = record(
            {"name": SLUG, "image": text(["nginx:1"])},
            {"ports": array(port, 0, 2), "args": array(text(["-v"]), 0, 4)},
        )
        spec = {f"{name}_limit": either(whole(), text(["2Gi"])) for name in NOUNS[:size]}
        for one in spec.values():
            one.bad[:] = [None, [], 1.5]
        yield record(
            {
                "apiVersion": choice("v1", "v2beta1"),
                "kind": only("Pod"),
                "metadata": record({"name": SLUG}, {"labels": mapping(text(["a"]))}),
                "spec": record({"containers": array(container, 1, 3)}, spec),
            }
        )


def settings() -> Iterator[Piece]:
    """Files of settings: references, descriptions, defaults, open objects."""
    for size in range(1, 21):
        level = named("level", choice("debug", "info", "error"))
        server = named("server", record({"host": text(["h"]), "port": PORT}, {"tls": flag()}))
        sections = {
            f"{name}": record({}, {"level": level, "server": server, "weight": SHARE})
            for name in NOUNS[:size]
        }
        yield record(
            {"version": VERSION},
            {"servers": array(server, 0, 4), **sections},
            is_open=size % 2 == 0,
            description=f"Settings with {size} sections.",
        )


def formats() -> Iterator[Piece]:
    """Strings in the formats that texts from the web have."""
    for one in (DATES, TIMES, IDS, MAILS, LINKS, HOSTS):
        yield one
        yield record({"value": one}, {"more": array(one, 1, 3)})
        yield record({"first": maybe(one), "second": text()})


def strings() -> Iterator[Piece]:
    """Strings by patterns and lengths."""
    for one in (CODE, SLUG, VERSION):
        yield one
        yield array(one, 1, 4)
        yield mapping(one)
    for least, most in ((0, 0), (0, 8), (1, 1), (3, 40), (20, 60), (0, 300)):
        yield text(["x" * least, "y" * most], minLength=least, maxLength=most)
        yield record({"line": text(["z" * most], minLength=least, maxLength=most)}, {"code": CODE})
    yield pattern("a.c", ["abc", "xxabcxx"], ["ac", "ab"])
    yield pattern("^(yes|no)( really)*$", ["yes", "no really really"], ["maybe", "yesreally"])
    yield pattern("^[^<>]{1,20}$", ["plain é 你"], ["<b>", "", "x" * 21])


def numbers() -> Iterator[Piece]:
    """Numbers by ranges and multiples."""
    for low, high in ((0, 9), (-5, 5), (1, 365), (1000, 99999), (-273, 0), (18, 120)):
        yield whole([low, high], [low - 1, high + 1], minimum=low, maximum=high)
        yield record(
            {
                "n": whole([low], [low - 1], minimum=low),
                "x": number(
                    [low + 0.5, high - 0.5],
                    [low, high],
                    exclusiveMinimum=low,
                    exclusiveMaximum=high,
                ),
            }
        )
    for step in (2, 5, 10, 25):
        yield whole([0, step, -3 * step], [1, step + 1], multipleOf=step)
    yield number([0.5, 2], [0.3], multipleOf=0.5)
    yield number([0, 99.99], [100, -0.01], minimum=0, exclusiveMaximum=100)


def lists() -> Iterator[Piece]:
    """Arrays of all shapes."""
    for item in (whole(), text(["a"]), COLOR, flag(), MIXED, SHARE, DATES):
        yield array(item, 0, 5)
        yield array(item, 2, 2)
        yield pair(item, whole())
    yield array(array(whole(), 1, 2), 1, 2)
    yield array(record({"x": number(), "y": number()}), 1, 4)
    yield array(extended(pair(text(["k"]), MIXED), [["k", 0], ["k", None]], [["k"], [0, 0]]), 0, 2)
    yield extended(array(whole()), [[], [1, 2]], [[1, 1]], uniqueItems=True)
    yield extended(array(COLOR), [["red"], ["red", "green"]], [["red", "red"]], uniqueItems=True)


def alternatives() -> Iterator[Piece]:
    """Several schemas at once: anyOf, allOf, oneOf, const, types."""
    circle = record({"shape": only("circle"), "radius": number([1, 2.5])})
    square = record({"shape": only("square"), "side": number([3])})
    letter = record({"shape": only("letter"), "code": CODE, "font": maybe(text(["serif"]))})
    for keyword in ("anyOf", "oneOf"):
        yield either(circle, square, keyword=keyword)
        yield either(circle, square, letter, keyword=keyword)
        yield array(either(square, letter, keyword=keyword), 1, 3)
        yield record({"at": either(DATES, null(), keyword=keyword)}, {"by": text(["me"])})
        at = record({"id": either(whole([5]), CODE, keyword=keyword)})
        at.bad[:] = [{"id": 1.5}, {"id": "x"}, {}]
        yield at
    lengths = Piece({"minLength": 2}, ["ab"], ["a"])
    yield both(Piece({"type": "string"}, ["abc"], [3]), lengths)
    low, high = Piece({"minimum": 3}, [3], [2]), Piece({"maximum": 7}, [7], [8])
    yield both(both(Piece({"type": "integer"}, [5], [5.5]), low), high)
    first = record({"a": whole()}, is_open=True)
    second = record({"b": text(["t"])}, is_open=True)
    yield Piece(
        {"allOf": [first.schema, second.schema]}, [{"a": 1, "b": "t"}], [{"a": 1}, {"b": "t"}]
    )
    yield MIXED
    yield only({"fixed": [1, "two", None]})
    several = Piece({"type": ["string", "integer", "array"]}, ["a", 1, [None]], [None, {}, True])
    yield several
    yield record({"value": several})
    yield Piece(True, [None, 1, {"a": [False]}], [])
    yield Piece({}, ["x", {"a": 1}], [])


def recursions() -> Iterator[Piece]:
    """Definitions that refer to themselves or to one another."""
    for value in (whole(), text(["a"]), COLOR, SHARE, maybe(whole())):
        yield tree(value)
        yield record({"root": tree(value)}, {"comment": text(["c"])})
    inner = {
        "anyOf": [
            {"type": "number"},
            {
                "type": "object",
                "properties": {
                    "op": {"enum": ["+", "*"]},
                    "of": {"type": "array", "items": {"$ref": "#/$defs/term"}, "minItems": 2},
                },
                "required": ["op", "of"],
                "additionalProperties": False,
            },
        ]
    }
    nested = {"op": "+", "of": [1, {"op": "*", "of": [2, 3.5]}]}
    bad = [{"op": "-", "of": [1, 2]}, {"op": "+", "of": [1]}, "1"]
    yield Piece({"$ref": "#/$defs/term"}, [1, nested], bad, {"term": inner})
    even = {"type": "array", "items": {"$ref": "#/$defs/odd"}, "maxItems": 2}
    odd = {"type": "object", "additionalProperties": {"$ref": "#/$defs/even"}}
    yield Piece(
        {"$ref": "#/$defs/even"},
        [[], [{"a": []}, {"b": [{}]}]],
        [{}, [[]], [{"a": 1}]],
        {"even": even, "odd": odd},
    )


def conditions() -> Iterator[Piece]:
    """Keywords that few engines follow: what is not followed must be refused."""
    whole_or_text = Piece({"type": ["integer", "string"]}, [1, "a"], [1.5])
    yield extended(whole_or_text, [1, "a"], ["no"], **{"not": {"const": "no"}})
    yield extended(array(whole(), 0, 5), [[1, 7]], [[1], []], contains={"const": 7})
    yield extended(
        record({}, {"card": text(["1"]), "code": text(["2"])}),
        [{}, {"card": "1", "code": "2"}, {"code": "2"}],
        [{"card": "1"}],
        dependentRequired={"card": ["code"]},
    )
    yield extended(
        record({"country": text(["A", "B"])}, {"zip": text(["1"])}),
        [{"country": "B"}, {"country": "A", "zip": "1"}],
        [{"country": "A"}],
        **{"if": {"properties": {"country": {"const": "A"}}}, "then": {"required": ["zip"]}},
    )
    yield Piece(
        {
            "type": "object",
            "patternProperties": {"^x_": {"type": "integer"}},
            "additionalProperties": False,
        },
        [{}, {"x_a": 1}],
        [{"x_a": "1"}, {"y": 1}],
    )
    yield extended(mapping(whole()), [{}, {"ab": 1}], [{"a": 1}], propertyNames={"minLength": 2})
    yield extended(
        mapping(whole()),
        [{"a": 1}],
        [{}, {"a": 1, "b": 2, "c": 3}],
        minProperties=1,
        maxProperties=2,
    )
    closed = {"type": "object", "properties": {"a": {"type": "integer"}}}
    yield Piece(closed | {"unevaluatedProperties": False}, [{"a": 1}], [{"a": 1, "b": 2}])
    yield extended(
        array(whole(), 0, 4),
        [[7, 7]],
        [[7], [7, 7, 7]],
        contains={"const": 7},
        minContains=2,
        maxContains=2,
    )
    yield extended(
        record({"kind": choice("a", "b")}, {"b": whole()}),
        [{"kind": "a"}, {"kind": "b", "b": 1}],
        [{"kind": "b"}],
        **{
            "if": {"properties": {"kind": {"const": "b"}}},
            "then": {"required": ["b"]},
            "else": True,
        },
    )


def large() -> Iterator[Piece]:
    """Hundreds of properties in nested objects."""
    for width, depth in ((8, 2), (12, 2), (20, 2), (25, 2), (6, 3), (8, 3)):

        def level(left: int, width: int = width) -> Piece:
            if left == 0:
                return whole()
            kinds = (text(["s"]), flag(), SHARE, COLOR)
            members = {name: kinds[place % 4] for place, name in enumerate(NOUNS[: width // 2])}
            below = {f"{name}s": level(left - 1) for name in NOUNS[width // 2 : width]}
            return record(members, below)

        yield level(depth)


FAMILIES: dict[str, Callable[[], Iterator[Piece]]] = {
    "calls": calls,
    "events": events,
    "resources": resources,
    "settings": settings,
    "formats": formats,
    "strings": strings,
    "numbers": numbers,
    "lists": lists,
    "alternatives": alternatives,
    "recursions": recursions,
    "conditions": conditions,
    "large": large,
}
