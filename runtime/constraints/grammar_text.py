"""A constraint in the language of llguidance, which compiles all kinds."""

import json

from llguidance import regex_to_lark

from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.errors import ConfigError
from runtime.files.strict_json import parse_json

_EVERY_SPELLING = '\n%llguidance {"no_forcing": true}\n'
"""Where text is forced, tokens that spell it otherwise than the tokenizer does are legal too: a
mask then follows from the bytes of tokens alone."""
_OPTIONS = "x-guidance"


def grammar_text(spec: ConstraintSpec) -> str:
    """Return what llguidance compiles.

    Raises:
        ValueError: a schema is no JSON.
    """
    return f"{_rules(spec)}{_EVERY_SPELLING}"


def _rules(spec: ConstraintSpec) -> str:
    match spec.kind:
        case ConstraintKind.JSON_SCHEMA:
            return f"start: %json {_schema(spec.text)}"
        case ConstraintKind.JSON_OBJECT:
            return 'start: %json {"type": "object"}'
        case ConstraintKind.REGEX:
            return f"start: /{regex_to_lark(spec.text)}/"
        case ConstraintKind.GRAMMAR:
            return spec.text
        case ConstraintKind.CHOICE:
            return "start: " + " | ".join(map(json.dumps, spec.choices))
        case ConstraintKind.MONITOR:
            raise ValueError("a monitor has no grammar")


def _schema(text: str) -> str:
    """Return a schema whose keywords must all be understood, whatever its options say."""
    try:
        schema = parse_json(text, "the schema")
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if isinstance(schema, dict):
        options = schema.get(_OPTIONS, {})
        if not isinstance(options, dict):
            raise ValueError(f"{_OPTIONS} is no object")
        schema = schema | {_OPTIONS: options | {"lenient": False}}
    return json.dumps(schema)
