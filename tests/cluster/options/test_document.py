"""Options come from defaults, environment, file, `--set` and flags, in this order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from cluster.options.document import OptionsDraft
from cluster.options.schema import Env, InputFile, Positive, Repeated
from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    size: Positive = 4
    sizes: tuple[int, ...] = ()
    name: str = "x"
    file: InputFile | None = None
    stop: Annotated[tuple[str, ...], Repeated()] = ()
    address: Annotated[str | None, Env("ADDRESS")] = None
    chat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    models: Models = Models(size=8)
    json: bool = False


def draft(*fixed: str) -> OptionsDraft:
    return OptionsDraft(Options, {"models.size": "--size"}, frozenset(fixed))


def assigned(given: OptionsDraft, assignment: str) -> Options:
    given.add_assignments([assignment])
    return given.build(Options)


def read(given: OptionsDraft, file: Path) -> Options:
    given.add_file(file)
    return given.build(Options)


def written(path: Path, text: str) -> Path:
    file = path / "options.toml"
    file.write_text(text)
    return file


def test_what_is_not_given_is_the_verb_s_default() -> None:
    assert draft().build(Options) == Options()


def test_later_places_win(tmp_path: Path) -> None:
    given = draft()
    given.add_environment({"ADDRESS": "a", "SIZE": "9"})
    given.add_file(written(tmp_path, 'json = true\n[models]\nsize = 1\nname = "n"\naddress = "b"'))
    given.add_assignments(["models.size=2", "models.name=m"])
    given.add_flag("models.size", "3")
    assert given.build(Options) == Options(models=Models(size=3, name="m", address="b"), json=True)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("models.sizes=1,2", Models(size=8, sizes=(1, 2))),
        ("models.sizes=[1, 2]", Models(size=8, sizes=(1, 2))),
        ("models.name=3", Models(size=8, name="3")),
        ('models.name="3 4"', Models(size=8, name="3 4")),
        ("models.name=[a", Models(size=8, name="[a")),
        ("models.name=a=b", Models(size=8, name="a=b")),
        ('models.stop=["a,b", "c"]', Models(size=8, stop=("a,b", "c"))),
        ("models.chat=true", Models(size=8, chat=True)),
    ],
)
def test_an_assignment_is_read_as_its_setting_s_type(assignment: str, expected: Models) -> None:
    assert assigned(draft(), assignment).models == expected


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("models.size", "--set 'models.size': write key=value"),
        ("models.size=", "--set models.size is empty"),
        ("models.size=0", "--set models.size is 0: it must be at least 1"),
        ("models.size=x", "--set models.size is 'x' .*: it must be an integer"),
        ("models.size2=1", "--set unknown key models.size2; did you mean models.size"),
        ("size=1", "--set unknown key size; did you mean models.size"),
        ("sizx=1", "--set unknown key sizx; did you mean models.size"),
        ("models=1", "--set models is a section: name one of its keys, as models.size"),
        ("models.chat=yes", "--set models.chat is 'yes' .*: it must be true or false"),
        ("models.file=nowhere", "--set models.file nowhere does not exist"),
        ("models.sizes=1,x", r"--set models.sizes\[1\] is 'x'"),
        ("json=true", "--set json has one value in this verb"),
    ],
)
def test_an_assignment_that_cannot_be_used_is_rejected_by_its_key(
    assignment: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        assigned(draft("json"), assignment)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[models]\nsize2 = 1", "options.toml: unknown key models.size2; did you mean models.size"),
        ("models = 1", r"options.toml: models is a section: write \[models\]"),
        ("[models]\nsize = 0", "options.toml: models.size is 0: it must be at least 1"),
        ("[models]\nsize = 'a'", "options.toml: models.size is 'a' .*: it must be an integer"),
        ("[models", "not TOML"),
    ],
)
def test_a_file_s_error_names_file_and_key(text: str, words: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError, match=words):
        read(draft(), file)


def test_a_flag_s_error_names_the_flag() -> None:
    given = draft()
    given.add_flag("models.size", "0")
    with pytest.raises(ConfigError, match=r"^--size is 0: it must be at least 1"):
        given.build(Options)
