"""The rooms import only what docs/architecture.md allows them."""

import ast
import importlib
from pathlib import Path

import pytest

from tests.support.draw_rooms import FIGURE, drawing
from tests.support.room_graph import modules, room_imports, room_of

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("parallel", "protos", "runtime", "actors", "cluster")
MAY_IMPORT = {
    "parallel": set[str](),
    "protos": set[str](),
    "runtime": {"parallel", "protos"},
    "actors": {"runtime", "parallel"},
    "cluster": {"actors", "runtime", "parallel"},
}
HEAVY = {
    "torch",
    "transformers",
    "grpc",
    "google",
    "msgpack",
    "ray",
    "numpy",
    "safetensors",
    "gguf",
    "peft",
    "triton",
}
MAY_IMPORT_HEAVY = {
    "parallel": {"torch", "numpy", "triton"},
    "protos": {"grpc", "google"},
    "runtime": {
        "torch",
        "transformers",
        "grpc",
        "google",
        "msgpack",
        "numpy",
        "safetensors",
        "gguf",
        "peft",
    },
    "actors": {"torch", "ray"},
    "cluster": {"ray"},
}


def imported_names(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    allowed = MAY_IMPORT[room] | MAY_IMPORT_HEAVY[room] | {room}
    for path in (ROOT / room).rglob("*.py"):
        outside = (imported_names(path) & (set(ROOMS) | HEAVY)) - allowed
        if path.parent.name == "protos":
            outside -= {"grpc_tools"}
        assert not outside, f"{path.relative_to(ROOT)} imports {sorted(outside)}"


def test_only_the_room_of_the_gpu_kernels_needs_triton() -> None:
    room = ROOT / "parallel" / "triton_kernels"
    for path in (ROOT / "parallel").rglob("*.py"):
        if path.parent != room:
            text = path.read_text(encoding="utf-8")
            assert "triton" not in imported_names(path), path
            assert "from parallel.triton_kernels" not in text, f"{path}: only the loader may"


IMPORTS_LATE = ROOT / "cluster" / "cli" / "table.py"
"""Verbs load torch and Ray only once they are chosen, so that help and light verbs are quick."""


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_hides_in_a_function(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        if "_pb2" in path.name or path == IMPORTS_LATE:
            continue
        tree = ast.parse(path.read_text())
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = [
                    n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)
                ]
                assert not hidden, f"{path.relative_to(ROOT)}:{hidden[0].lineno}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_resolves_to_this_checkout(room: str) -> None:
    assert Path(str(importlib.import_module(room).__file__)).is_relative_to(ROOT)


def test_the_table_in_the_docs_is_the_one_that_is_held() -> None:
    rows: dict[str, list[set[str]]] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] in ROOMS:
            rows[cells[0]] = [
                {n.strip() for n in cell.split(",")} - {"nothing"} for cell in cells[1:3]
            ]
    assert {room: row[0] for room, row in rows.items()} == MAY_IMPORT
    documented = {room: {n.partition(".")[0] for n in row[1]} for room, row in rows.items()}
    assert documented == MAY_IMPORT_HEAVY


def rooms_in_the_docs() -> list[str]:
    """Return the rooms of the second table in docs/architecture.md, from the ground up."""
    table = (ROOT / "docs" / "architecture.md").read_text().partition("| room | what it holds |")[2]
    rows = table.partition("\n\n")[0].splitlines()[2:]
    return [
        row.split("`")[1].removesuffix("/*.py").removesuffix(".py").replace("/", ".")
        for row in rows
    ]


def test_each_room_has_one_sentence_in_the_docs() -> None:
    documented = rooms_in_the_docs()
    assert len(documented) == len(set(documented))
    assert set(documented) == {documented_room(room_of(module)) for module in modules()}


def test_a_room_imports_only_rooms_above_it_in_the_docs() -> None:
    height = {room: place for place, room in enumerate(rooms_in_the_docs())}
    upward = [
        f"{room} imports {other}"
        for room, others in room_imports().items()
        for other in others
        if height[documented_room(other)] > height[documented_room(room)]
    ]
    assert not upward


def test_the_figure_of_the_rooms_is_current() -> None:
    assert FIGURE.read_text(encoding="utf-8") == drawing(), (
        "docs/rooms.svg is not current: run python -m tests.support.draw_rooms"
    )


def documented_room(room: str) -> str:
    """Return the row that a room has in the docs: files beside the rooms of a band share one."""
    band, _, name = room.partition(".")
    is_file = (ROOT / band / f"{name}.py").is_file()
    return band if is_file and band != "parallel" else room


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md", "CONTRIBUTING.md"])
def test_documents_name_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    for quoted in text.split("`")[1::2]:
        looks_like_path = (
            "/" in quoted and not set(" *") & set(quoted) and quoted.split("/")[0] in ROOMS_AND_MORE
        )
        if looks_like_path:
            assert (ROOT / quoted).exists(), f"{document} names {quoted}"


ROOMS_AND_MORE = {*ROOMS, "docs", "tests", ".ci"}
