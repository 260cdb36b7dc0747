"""Every module with logic has its own test file, or the table names the test that covers it.

A module has logic if one of its functions branches, loops or has more than three statements.
Its test is tests/<room>/test_<module>.py. The exceptions are in tests/data/mirror.toml.
"""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("parallel", "runtime", "actors", "cluster", "protos")
BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.BoolOp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.Match,
    ast.Try,
    ast.comprehension,
)
TABLE = tomllib.loads((ROOT / "tests" / "data" / "mirror.toml").read_text(encoding="utf-8"))
COVERED = [(test, module) for test, row in TABLE["covered"].items() for module in row["modules"]]


def path_of(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_logic(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function branches, loops or has more than three statements."""
    has_docstring = ast.get_docstring(function) is not None
    inner = [n for line in function.body[has_docstring:] for n in ast.walk(line)]
    num_statements = sum(isinstance(node, ast.stmt) for node in inner)
    return num_statements > 3 or any(isinstance(node, BRANCHES) for node in inner)


@cache
def modules_with_logic() -> tuple[str, ...]:
    return tuple(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if "_pb2" not in path.name
        and any(
            is_logic(node)
            for node in ast.walk(parse(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )
    )


def mirrored_test(module: str) -> Path:
    path = path_of(module).relative_to(ROOT)
    return ROOT / "tests" / path.parent / f"test_{path.name}"


@cache
def imported_modules(path: Path) -> set[str]:
    """Return every module of ours that a file names in an import."""
    names: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    faces = [ROOT / name.replace(".", "/") / "__init__.py" for name in names]
    for face in faces:  # what a package re-exports
        if face.is_file() and face != path:
            names |= imported_modules(face)
    return {name for name in names if path_of(name).is_file()}


def reached_modules(test: Path) -> set[str]:
    """Return what a test and its support modules import, and what those modules import."""
    support, direct = [test], set[str]()
    for path in support:
        found = imported_modules(path)
        support += [
            p for name in found if name.startswith("tests.") and (p := path_of(name)) not in support
        ]
        direct |= {name for name in found if not name.startswith("tests.")}
    return direct.union(*(imported_modules(path_of(name)) for name in direct))


def test_every_module_with_logic_has_its_test() -> None:
    listed = {module for _, module in COVERED} | set(TABLE["without"])
    missing = [
        module
        for module in modules_with_logic()
        if not mirrored_test(module).is_file() and module not in listed
    ]
    assert not missing, f"neither mirrored in tests/ nor in tests/data/mirror.toml: {missing}"


def test_the_table_names_only_modules_that_need_it() -> None:
    listed = [module for _, module in COVERED] + list(TABLE["without"])
    stale = [m for m in listed if m not in modules_with_logic() or mirrored_test(m).is_file()]
    assert not stale, f"gone, without logic or mirrored by now: {stale}"
    assert len(listed) == len(set(listed)), "a module is in the table twice"


@pytest.mark.parametrize(("test", "module"), COVERED)
def test_the_named_test_imports_or_runs_the_module(test: str, module: str) -> None:
    path = ROOT / test
    assert path.is_file()
    command = TABLE["covered"][test].get("commands", {}).get(module)
    if command is None:
        assert module in reached_modules(path)
    else:  # as words in one string or as strings of their own
        assert command in " ".join(re.findall(r"[\w./-]+", path.read_text(encoding="utf-8")))


def test_a_test_file_without_a_module_is_in_the_table() -> None:
    mirrors = {mirrored_test(module) for module in all_modules()}
    named = {ROOT / test for test in (*TABLE["covered"], *TABLE["scenarios"])}
    strays = [
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / "tests" / room).rglob("test_*.py")
        if path not in mirrors | named
    ]
    assert not strays, f"mirrors no module; name it in tests/data/mirror.toml: {strays}"


def all_modules() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    ]


@pytest.mark.parametrize("test", TABLE["scenarios"])
def test_a_named_scenario_exists(test: str) -> None:
    assert (ROOT / test).is_file()
