"""The set of JSON schemas: what compiles accepts every valid instance, token by token."""

import json
from collections import Counter

import pytest

from runtime.models.tokenizer import Tokenizer
from tests.support.models import smollm2_directory
from tests.support.schema_coverage import VOCAB, measure, table
from tests.support.schema_engines import Paceline
from tests.support.schema_families import FAMILIES
from tests.support.schema_set import FILE, SIZES, read_cases, tally, validator, written

KEYWORDS = (
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "$ref"),
    *("anyOf", "oneOf", "allOf", "not", "if", "format", "pattern", "minLength", "maxLength"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems"),
    *("maxItems", "prefixItems", "uniqueItems", "patternProperties", "propertyNames", "contains"),
    *("minProperties", "dependentRequired", "unevaluatedProperties", "description", "title"),
)
"""Those of JSONSchemaBench's schemas that a constraint can depend on, and two that it cannot."""


def test_the_committed_set_is_what_its_families_make() -> None:
    assert FILE.read_text(encoding="utf-8") == written()


def test_the_set_has_two_hundred_schemas_of_every_family_size_and_keyword() -> None:
    cases = read_cases()
    assert len(cases) >= 200
    assert {case.family for case in cases} == set(FAMILIES)
    sizes = Counter(case.size for case in cases)
    assert all(sizes[size] >= 3 for size in SIZES if size != "ultra")
    assert set(KEYWORDS) <= set(tally(cases))


def test_every_instance_is_what_it_is_said_to_be() -> None:
    for case in read_cases():
        decides = validator(case.schema)
        assert case.valid
        assert case.invalid or case.schema in (True, {"type": ["string"]}, {})
        for text in case.valid:
            decides.validate(json.loads(text))
        assert not any(decides.is_valid(json.loads(text)) for text in case.invalid)


@pytest.fixture(scope="module")
def engine() -> Paceline:
    return Paceline(Tokenizer.load(smollm2_directory()), VOCAB)


def test_what_compiles_is_followed_and_what_is_not_followed_does_not_compile(
    engine: Paceline,
) -> None:
    cases = read_cases()
    report = measure(engine, cases)
    assert report.over == []
    assert report.under == []
    assert report.compiled >= 0.9 * len(cases)
    assert {name.partition("-")[0] for name in report.refused} <= {
        "alternatives",
        "conditions",
        "lists",
    }
    assert f"{report.compiled} of {len(cases)}" in table({"ours": report}, cases)
