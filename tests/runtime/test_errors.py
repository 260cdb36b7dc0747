"""All errors of Paceline form one tree, and their texts name fields, not the flags of a command."""

import ast
import builtins
import re
from pathlib import Path

import pytest

from runtime import errors

ROOT = Path(__file__).resolve().parents[2]
BUILTIN = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OF_OTHER_PROGRAMS = {"--no-deps", "--merge", "--shm-size"}
"""Flags of pip, llama-gguf-split and docker."""


def sources(*rooms: str) -> dict[str, ast.Module]:
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for room in rooms
        for path in sorted((ROOT / room).rglob("*.py"))
        if "_pb2" not in path.name
    }


def ancestors(name: str, bases: dict[str, set[str]]) -> set[str]:
    parents = bases.get(name, set())
    return parents.union(*(ancestors(parent, bases) for parent in parents))


def test_every_exception_class_derives_from_the_root_of_the_tree() -> None:
    bases: dict[str, set[str]] = {}
    for tree in sources("parallel", "runtime", "actors", "cluster").values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    exceptions = {name for name in bases if ancestors(name, bases) & BUILTIN}
    assert len(exceptions) > 15
    outside = {
        name
        for name in exceptions - {"PacelineError"}
        if "PacelineError" not in ancestors(name, bases)
    }
    assert not outside


def test_the_tree_in_the_docstring_has_every_class_of_the_module() -> None:
    drawn = set(re.findall(r"\+-- (\w+)", errors.__doc__ or ""))
    classes = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert drawn == classes - {"PacelineError"}


@pytest.mark.parametrize("room", ["parallel", "runtime", "actors"])
def test_no_text_below_the_command_line_names_a_flag(room: str) -> None:
    found = {
        f"{path}:{node.lineno}"
        for path, tree in sources(room).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if set(FLAG.findall(node.value)) - OF_OTHER_PROGRAMS
    }
    assert not found
