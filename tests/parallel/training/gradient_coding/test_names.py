"""Names of schemes are read with their parameters, or rejected with what would do."""

import pytest

from parallel.training.gradient_coding.names import round_scheme, split_name
from parallel.training.gradient_coding.schemes import CodedScheme, DropSlowest
from parallel.training.gradient_coding.sequential import Multiplexed, SelectiveRepeat


def test_numbers_are_split_from_the_end_of_a_name() -> None:
    assert split_name("m-sgc-1-3-4") == ("m-sgc", [1, 3, 4])
    assert split_name("uncoded") == ("uncoded", [])
    assert split_name("gc-") == ("gc-", [])
    assert split_name("a-1-b-2") == ("a-1-b", [2])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("uncoded", CodedScheme),
        ("drop-2", DropSlowest),
        ("gc-2", CodedScheme),
        ("gc", CodedScheme),
        ("frc-2", CodedScheme),
        ("class-2", CodedScheme),
        ("cyclic-2", CodedScheme),
        ("roots-1", CodedScheme),
        ("sr-sgc-1-2-2", SelectiveRepeat),
        ("sr-sgc", SelectiveRepeat),
        ("m-sgc-1-2-2", Multiplexed),
    ],
)
def test_every_documented_form_makes_its_scheme(name: str, kind: type) -> None:
    assert type(round_scheme(name, 6)) is kind


def test_a_name_alone_means_one_straggler() -> None:
    alone, written = round_scheme("cyclic", 6), round_scheme("cyclic-1", 6)
    assert isinstance(alone, CodedScheme)
    assert isinstance(written, CodedScheme)
    assert alone.load == written.load


def test_a_scheme_that_does_not_work_in_rounds_is_none() -> None:
    assert round_scheme("dynamic", 6) is None
    assert round_scheme("uncoded-1", 6) is None


def test_a_wrong_count_of_numbers_is_rejected_with_the_forms() -> None:
    with pytest.raises(ValueError, match=r"m-sgc takes 3 number\(s\), as in uncoded, drop-K"):
        round_scheme("m-sgc-1-2", 6)
    with pytest.raises(ValueError, match=r"gc takes 1 number\(s\)"):
        round_scheme("gc-1-2", 6)
