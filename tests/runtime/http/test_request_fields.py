"""Every field of a body is read, skipped for a reason, or rejected by its name."""

from typing import Any

import pytest

from runtime.errors import InvalidValue
from runtime.http.request_fields import FIXED, HARMLESS, RequestFields


def test_fields_that_change_nothing_are_skipped() -> None:
    RequestFields(dict.fromkeys(HARMLESS, "anything")).reject_rest()
    RequestFields({"unknown": None, "suffix": None}).reject_rest()  # null counts as absent


@pytest.mark.parametrize("name", FIXED)
def test_a_field_with_one_meaning_accepts_it_and_nothing_else(name: str) -> None:
    accepted, reason = FIXED[name]
    for value in accepted:
        RequestFields({name: value}).reject_rest()
    with pytest.raises(InvalidValue, match=f"`{name}` is 'x' .*, which is not supported") as error:
        RequestFields({name: "x"}).reject_rest()
    assert reason in str(error.value)


def test_a_number_is_not_a_truth_value() -> None:
    with pytest.raises(InvalidValue, match="`echo` is 0"):
        RequestFields({"echo": 0}).reject_rest()


def test_a_misspelled_field_is_rejected_with_the_one_it_resembles() -> None:
    fields = RequestFields({"top_pp": 0.5})
    assert fields.take("top_p") is None
    with pytest.raises(InvalidValue, match=r"`top_pp` is not a field .* did you mean `top_p`"):
        fields.reject_rest()
    with pytest.raises(InvalidValue, match="`zzz` is not a field of this endpoint: remove it"):
        RequestFields({"zzz": 1}).reject_rest()


@pytest.mark.parametrize("value", ["true", 1, []])
def test_a_flag_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidValue, match="`stream` is"):
        RequestFields({"stream": value}).flag("stream")
    assert RequestFields({"stream": True}).flag("stream")
    assert not RequestFields({}).flag("stream")
