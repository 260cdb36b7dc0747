"""A verb's settings are read from its dataclass: keys, flags, defaults and documentation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cluster.options.schema import (
    REQUIRED,
    Flag,
    InputFile,
    PathUse,
    Positive,
    Repeated,
    choices_of,
    is_among,
    settings_of,
)
from parallel.decoding.types import VerifierKind
from runtime.checking.tables import Range, Unset


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    size: Positive = 4
    """The size. The rest is for the reference,
    on another line."""
    file: InputFile | None = None
    wait_s: Annotated[float | None, Range(above=0), Unset("off")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    target: str
    section: Section = Section(size=9)
    address: Annotated[str, Flag("--ray")] = "auto"
    words: Annotated[tuple[str, ...], Repeated()] = ()


def test_settings_of_sections_have_dotted_keys_in_order() -> None:
    keys = ["target", "section.size", "section.file", "section.wait_s", "address", "words"]
    assert list(settings_of(Options)) == keys


def test_a_section_stands_for_all_its_keys() -> None:
    assert is_among("section.size", {"section"})
    assert is_among("section.size", {"section.size"})
    assert not is_among("sections", {"section"})


def test_a_field_s_string_is_its_documentation() -> None:
    size = settings_of(Options)["section.size"]
    assert size.doc == "The size. The rest is for the reference, on another line."
    assert size.summary == "The size."


def test_defaults_are_those_of_the_section_s_instance() -> None:
    settings = settings_of(Options)
    assert settings["section.size"].default == 9
    assert settings_of(Section)["size"].default == 4
    assert settings["target"].default is REQUIRED
    assert settings["section.wait_s"].default_text == "off"


def test_a_flag_is_the_field_s_name_without_its_unit_or_a_given_one() -> None:
    settings = settings_of(Options)
    assert settings["section.wait_s"].flag == "--wait"
    assert settings["section.size"].flag == "--size"
    assert settings["address"].flag == "--ray"


def test_marks_are_found_inside_and_outside_of_optional_types() -> None:
    settings = settings_of(Options)
    file, wait = settings["section.file"], settings["section.wait_s"]
    assert (file.kind, file.path_use) == (Path, PathUse.INPUT_FILE)
    assert (wait.kind, wait.mark(Range)) == (float, Range(above=0))
    assert settings["words"].is_list
    assert settings["words"].kind is str


def test_choices_are_the_words_of_an_enum() -> None:
    assert choices_of(VerifierKind) == tuple(kind.value for kind in VerifierKind)
    assert choices_of(int) == ()
