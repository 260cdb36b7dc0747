"""Keys of a configuration are read with their types, and unread ones are listed."""

from collections.abc import Callable

import pytest

from runtime.models.families.fields import Fields


def test_what_no_method_has_read_is_listed() -> None:
    fields = Fields({"layers": 2, "theta": 1.5, "extra": None, "other": [1]})
    assert (fields.whole("layers"), fields.number("theta")) == (2, 1.5)
    assert fields.unread() == {"extra": None, "other": [1]}
    assert fields.get("extra") is None
    assert fields.unread() == {"other": [1]}


def test_null_counts_as_absent_but_can_be_told_apart() -> None:
    fields = Fields({"layers": None})
    assert fields.whole("layers", 3) == 3
    assert fields.whole("heads", 4) == 4
    assert fields.number("theta", 0.5) == 0.5
    assert fields.flag("bias", default=True) is True
    assert fields.mapping("rope") == {}
    assert fields.states("layers")
    assert not fields.states("heads")


@pytest.mark.parametrize(
    ("read", "value", "words"),
    [
        (lambda fields: fields.whole("x"), None, "x is None: expected a positive whole number"),
        (lambda fields: fields.whole("x"), 0, "x is 0"),
        (lambda fields: fields.whole("x"), True, "x is True"),
        (lambda fields: fields.whole("x"), 2.0, r"x is 2\.0"),
        (lambda fields: fields.number("x"), "3", "x is '3': expected a number"),
        (lambda fields: fields.number("x"), False, "x is False"),
        (lambda fields: fields.number("x"), 0.0, "expected a positive finite number"),
        (lambda fields: fields.number("x"), float("inf"), "expected a positive finite number"),
        (lambda fields: fields.number("x"), float("nan"), "expected a positive finite number"),
        (lambda fields: fields.flag("x"), 1, "x is 1: expected true or false"),
        (lambda fields: fields.flag("x"), "false", "expected true or false"),
        (lambda fields: fields.mapping("x"), [], "expected an object"),
    ],
)
def test_a_value_of_another_type_is_rejected(
    read: Callable[[Fields], object], value: object, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        read(Fields({"x": value}))
