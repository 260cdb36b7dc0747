"""Every text file names its encoding: without one it would be the locale's."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_TEXT = set("rwax+t")


def unnamed(path: Path) -> Iterator[int]:
    """Yield the lines that open a text file without naming its encoding."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        is_method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        modes = [str(part.value) for part in node.args if isinstance(part, ast.Constant)]
        opens = name in ("open", "fdopen") and any(mode and set(mode) <= _TEXT for mode in modes)
        if opens or (is_method and name in ("read_text", "write_text")):
            yield node.lineno


@pytest.mark.parametrize("room", ["parallel", "runtime", "actors", "cluster"])
def test_a_text_file_names_its_encoding(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        lines = list(unnamed(path))
        assert not lines, f"{path.relative_to(ROOT)}:{lines[0]} names no encoding"
