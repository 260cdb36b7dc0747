"""Single values: every library's integers and numbers are taken, all else is rejected by name."""

from array import array
from enum import IntEnum
from fractions import Fraction

import numpy as np
import pytest
import torch

from runtime.checking.values import describe, flag, number, text, texts, whole_number
from runtime.errors import ConfigError, InvalidValue


class Level(IntEnum):
    """An integer by inheritance."""

    HIGH = 5


@pytest.mark.parametrize(
    "value",
    [
        5,
        np.int64(5),
        np.uint8(5),
        np.array(5),
        torch.tensor(5),
        torch.tensor(5, dtype=torch.uint8),
        Level.HIGH,
    ],
)
def test_an_integer_of_any_library_is_an_int(value: object) -> None:
    assert type(whole_number(value, "n")) is int
    assert whole_number(value, "n") == 5
    assert number(value, "n") == 5.0


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        torch.tensor(True),
        5.0,
        np.float64(5),
        torch.tensor(5.0),
        "5",
        b"5",
        None,
        [5],
        torch.tensor([5]),
        np.array([5]),
        object(),
        Fraction(5),
        5j,
    ],
)
def test_what_is_no_integer_is_rejected_by_name(value: object) -> None:
    with pytest.raises(InvalidValue, match=r"^top_k is .*: it must be an integer"):
        whole_number(value, "top_k")


@pytest.mark.parametrize("value", [-1, 2**40, 10**40, np.int64(-3)])
def test_an_integer_out_of_range_is_rejected_with_the_range(value: object) -> None:
    with pytest.raises(InvalidValue, match=r"^n is .*: it must be between 0 and 16"):
        whole_number(value, "n", minimum=0, maximum=16)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), Fraction(1, 2)])
def test_a_number_of_any_library_is_a_float(value: object) -> None:
    assert type(number(value, "top_p")) is float
    assert number(value, "top_p") == 0.5


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (np.float64("nan"), "finite"),
        (10**400, "finite"),
        (True, "a number"),
        ("0.5", "a number"),
        (None, "a number"),
        ([0.5], "a number"),
        (1.5, "between 0 and 1"),
    ],
)
def test_what_is_no_finite_number_in_range_is_rejected(value: object, wanted: str) -> None:
    with pytest.raises(InvalidValue, match=rf"^top_p is .*{wanted}"):
        number(value, "top_p", minimum=0, maximum=1)


def test_only_bools_are_flags() -> None:
    assert flag(np.True_, "f") is True
    for value in (1, "true", None):
        with pytest.raises(InvalidValue, match=r"^f is .*: it must be True or False"):
            flag(value, "f")


def test_one_string_is_one_stop_string_and_not_its_characters() -> None:
    assert texts("abc", "stop") == ("abc",)
    assert texts(["abc", np.str_("d")], "stop") == ("abc", "d")
    assert texts((one for one in "ab"), "stop") == ("a", "b")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", 3], r"stop\[1\] is 3: it must be a string"),
        ([None], r"stop\[0\] is None"),
        ({"a"}, r"stop is \{'a'\} \(set\): it must be a list of strings"),
        ({"a": 1}, "stop is .*: it must be a list of strings"),
        (b"ab", "stop is .*: it must be a list of strings"),
        (5, "stop is 5: it must be a list of strings"),
        (["a\ud800"], r"stop\[0\] holds half a surrogate pair at character 1"),
    ],
)
def test_what_is_no_list_of_strings_is_rejected(value: object, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        texts(value, "stop")


def test_errors_are_those_of_callers_in_python_and_of_the_command_line() -> None:
    with pytest.raises(ValueError, match="name is 3"):
        text(3, "name")
    with pytest.raises(ConfigError, match="name is 3"):
        text(3, "name")


def test_a_shown_value_is_short_and_on_one_line() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    for value in (torch.zeros(50, 50), "x" * 1_000, array("i", range(500)), 10**6_000, nested):
        shown = describe(value)
        assert len(shown) < 100
        assert "\n" not in shown
    while nested:  # frees it level by level
        nested = nested[0]  # type: ignore[assignment]
