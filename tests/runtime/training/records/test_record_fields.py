"""Fields of records are strings with words, or are rejected by name."""

import pytest

from runtime.training.records.record_fields import field_of, filled_of, string_of
from tests.support.rejection import rejected

RECORD: dict[str, object] = {"a": "one", "b": " ", "c": 3}


def test_a_field_is_returned_as_it_is() -> None:
    assert field_of(RECORD, "c") == 3
    assert string_of(RECORD, "b") == " "
    assert filled_of(RECORD, "a") == "one"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("d", "no field 'd'; the record has a, b, c"),
        ("c", "c is 3: it must be a string"),
        ("b", "b is empty: there is nothing to learn"),
    ],
)
def test_a_field_without_words_is_rejected(name: str, message: str) -> None:
    with rejected(message):
        filled_of(RECORD, name)
