"""The source stays small in every part: rooms, files and functions, and each has its own name."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.support.room_graph import modules

MAX_MODULES = 22
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
SHARED_NAMES = {
    "errors": "parallel raises the base class of all errors, and runtime holds the rest",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def trees() -> Iterator[tuple[str, str, ast.Module]]:
    """Yield each module's name, text and syntax tree."""
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        yield name, text, ast.parse(text)


def test_a_room_is_small_enough_to_survey() -> None:
    rooms: dict[str, int] = defaultdict(int)
    for module in modules():
        rooms[module.rpartition(".")[0]] += 1
    assert {room: num for room, num in rooms.items() if num > MAX_MODULES} == {}


def test_no_two_modules_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules():
        places[module.rpartition(".")[2]].append(module)
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert shared.keys() == SHARED_NAMES.keys()


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, _, tree in trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert shared == {}


def test_no_file_is_long() -> None:
    long = {module for module, text, _ in trees() if len(text.splitlines()) > MAX_LINES}
    assert long == set(), f"longer than {MAX_LINES} lines: split it by subject"


def test_no_function_is_long() -> None:
    long = {
        f"{module}.{node.name}"
        for module, _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    }
    assert long == set(), f"longer than {MAX_FUNCTION_LINES} lines: split it"
