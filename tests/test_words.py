"""The words that docs/glossary.md lists as "Not" are used nowhere else."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("actors", "cluster", "docs", "examples", "parallel", "protos", "runtime", "tests")
SUFFIXES = {".py", ".md", ".toml", ".proto"}
EXEMPT = {"docs/glossary.md", "CHANGELOG.md", "tests/test_words.py"}


def listed_words() -> dict[str, str]:
    """Return what to write in place of each word or phrase to avoid."""
    table = (ROOT / "docs" / "glossary.md").read_text().partition("## Words to avoid")[2]
    rows = re.findall(r"^\| (.+?) \| (`.+`) \|$", table, re.MULTILINE)
    return {word: write for write, words in rows for word in re.findall(r"`([^`]+)`", words)}


def pattern_of(phrase: str) -> re.Pattern[str]:
    """Match whole words, also where a phrase continues on the next line of a comment."""
    between = r"[\s#]+".join(re.escape(word) for word in phrase.split())
    return re.compile(rf"(?<![A-Za-z]){between}(?![A-Za-z])", re.IGNORECASE)


def findings(text: str) -> list[str]:
    """Return a line for each word to avoid in a text, with what to write."""
    found: list[str] = []
    for phrase, write in listed_words().items():
        for match in pattern_of(phrase).finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"line {line}: {match.group()!r}: write {write}")
    return found


def files_of(room: str) -> list[Path]:
    """Return the text files of a room that are written by hand."""
    return [
        path
        for path in sorted((ROOT / room).rglob("*"))
        if path.suffix in SUFFIXES
        and "_pb2" not in path.name
        and str(path.relative_to(ROOT)) not in EXEMPT
    ]


def assert_clean(paths: list[Path]) -> None:
    """Fail with a line for each word to avoid."""
    wrong: list[str] = []
    for path in paths:
        name = str(path.relative_to(ROOT))
        wrong += [f"{name} {line}" for line in findings(path.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(["docs/glossary.md lists these words as not to be used:", *wrong])


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_none_of_the_words_to_avoid(room: str) -> None:
    assert_clean(files_of(room))


def test_the_files_at_the_root_use_none_of_the_words_to_avoid() -> None:
    assert_clean([path for path in ROOT.glob("*.*") if path.suffix in {".md", ".toml"}])


@pytest.mark.parametrize(
    "text",
    ["It is Foretold.", "the draft_law is", "what it went\n    # on with", '"""Let it be."""'],
)
def test_a_word_to_avoid_is_found_in_any_form(text: str) -> None:
    assert len(findings(text)) == 1


@pytest.mark.parametrize("text", ["a flaw in lawn chairs", "it goes once", "a hearing", "outlaws"])
def test_a_word_that_contains_one_to_avoid_is_not_found(text: str) -> None:
    assert not findings(text)


def test_the_word_list_is_read_whole() -> None:
    assert len(listed_words()) > 40
