"""Every command in the documents names a verb, options and settings that exist."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from cluster.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples/README.md"])
EXEMPT = {"CHANGELOG.md", "reference.md"}
PASSED_ON = {("submit",): (), ("service", "start"): ("serve",)}
"""Verbs that pass their other arguments on, and the verb that gets them (else they name it)."""
JOB_VERBS = {("train", "run"), ("train", "resume"), ("train", "plan"), ("bench", "learn")}
"""Verbs whose settings are keys of a training job."""


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every `paceline` command in code blocks and code spans."""
    joined = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^(?:    |```).*?$", joined, re.MULTILINE)
    fenced = re.findall(r"^```\w*\n(.*?)^```", joined, re.MULTILINE | re.DOTALL)
    lines = [*blocks, *(line for block in fenced for line in block.splitlines())]
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", joined)
    for line in lines:
        found = re.match(r"\s*(?:[A-Z_0-9]+=\S+ )*(?:\.venv/bin/)?paceline (.+)", line)
        if found and not found[1].startswith("..."):
            yield shlex.split(found[1].partition(" | ")[0].rstrip("& "), comments=True)


def unknown_parts(arguments: list[str]) -> list[str]:
    """Return what a command names that does not exist: verbs, options, settings."""
    command: Any = typer.main.get_command(app)
    verb: tuple[str, ...] = ()
    rest = list(arguments)
    while isinstance(command, TyperGroup) and rest:
        if rest[0] not in command.commands and rest[0].endswith((".toml", "CONFIG.toml")):
            rest.insert(0, "run")
        if rest[0] not in command.commands:
            return [] if rest[0].isupper() else [f"verb {' '.join((*verb, rest[0]))}"]
        command = command.commands[rest[0]]
        verb = (*verb, rest.pop(0))
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    if verb in PASSED_ON:
        own = [word for word in rest if word.partition("=")[0] not in options]
        inner = [*PASSED_ON[verb], *own[1 if PASSED_ON[verb] else 0 :]]
        return unknown_parts(inner)
    flags = [word.partition("=")[0] for word in rest if word.startswith("-")]
    wrong = [f"{' '.join(verb)} {flag}" for flag in flags if flag not in {*options, "--help"}]
    values = [value for flag, value in pairwise(rest) if flag == "--set"]
    keys = {value.partition("=")[0] for value in values}
    known = keys if verb in JOB_VERBS else settings()
    return wrong + [f"setting {key}" for key in keys - known]


def all_flags(command: Any) -> set[str]:
    """Return the options of a verb and of all verbs below it."""
    flags = {"--help"} | {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    below = command.commands.values() if isinstance(command, TyperGroup) else ()
    return flags.union(*(all_flags(each) for each in below))


def settings() -> set[str]:
    """Return all settings that docs/reference.md lists."""
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([a-z_.]+)` \|", reference, re.MULTILINE))


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name not in EXEMPT], ids=lambda path: path.name
)
def test_a_document_names_verbs_options_and_settings_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    wrong = {part for arguments in commands(text) for part in unknown_parts(arguments)}
    assert not wrong


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name not in EXEMPT], ids=lambda path: path.name
)
def test_a_document_names_flags_that_exist(document: Path) -> None:
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", document.read_text(encoding="utf-8"))
    flags = {
        flag for span in spans if span.startswith("--") for flag in [re.split("[ =]", span)[0]]
    }
    assert flags <= all_flags(typer.main.get_command(app))


@pytest.mark.parametrize(
    "line",
    ["paceline invent", "paceline generate --invent x", "paceline generate --set models.colour=1"],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    (arguments,) = commands(f"    {line}\n")
    assert unknown_parts(arguments)
