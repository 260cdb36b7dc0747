"""The fields of a body that constrain the answer: response_format (OpenAI's) and guided_*."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.checking.values import describe, items
from runtime.errors import InvalidValue
from runtime.http.request_fields import RequestFields

_GUIDED = {
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_grammar": "grammar",
    "guided_choice": "choice",
    "guided_monitor": "monitor",
}
_SCHEMA_KEYS = ("name", "description", "schema", "strict")


@dataclass(frozen=True, slots=True)
class ConstraintBody:
    """The constraint of a body, as fields of `Sampling`."""

    fields: Mapping[str, Any]
    name: str = ""
    """The field that holds it."""


def read_constraint(fields: RequestFields) -> ConstraintBody:
    """Return the constraint of a body; it is empty without one.

    Raises:
        InvalidValue: there are several, or one has another form; names the field.
    """
    found = [_response_format(fields.take("response_format"))]
    for name, kind in _GUIDED.items():
        value = fields.take(name)
        if value is not None:
            if name == "guided_choice":
                value = items(value, "`guided_choice`", "texts")
            found.append(ConstraintBody({kind: value}, name))
    stated = [one for one in found if one.fields]
    if len(stated) > 1:
        names = " and ".join(f"`{one.name}`" for one in stated)
        raise InvalidValue(f"{names} are given: an answer has one constraint")
    return stated[0] if stated else ConstraintBody({})


def _response_format(value: object) -> ConstraintBody:
    name = "response_format"
    if value is None:
        return ConstraintBody({})
    if not isinstance(value, Mapping):
        raise InvalidValue(f"`{name}` is {describe(value)}: it must be an object")
    rest = {key: held for key, held in value.items() if key != "type"}
    match value.get("type"):
        case "text" if not rest:
            return ConstraintBody({})
        case "json_object" if not rest:
            return ConstraintBody({"json_object": True}, name)
        case "json_schema" if rest.keys() == {"json_schema"}:
            return ConstraintBody({"json_schema": _schema(rest["json_schema"])}, name)
        case "text" | "json_object" | "json_schema":
            raise InvalidValue(
                f"`{name}` has the keys {', '.join(map(describe, value))}: json_schema needs a "
                "key json_schema beside type, text and json_object need none"
            )
    raise InvalidValue(
        f"`{name}.type` is {describe(value.get('type'))}: choose text, json_object or json_schema"
    )


def _schema(value: object) -> object:
    field = "`response_format.json_schema`"
    if not isinstance(value, Mapping) or value.get("schema") is None:
        raise InvalidValue(f"{field} is {describe(value)}: it must be an object with a schema")
    for key in value:
        if key not in _SCHEMA_KEYS:
            raise InvalidValue(f"{field} has the key {describe(key)}: remove it")
    return value["schema"]
