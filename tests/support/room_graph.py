"""The project's rooms and their imports, read from the source."""

import ast
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BANDS = ("cluster", "actors", "runtime", "parallel", "protos")
"""The rooms on the top level, highest first."""


@dataclass(frozen=True, slots=True)
class Import:
    """One module imports another one of ours."""

    importer: str
    imported: str


def modules() -> dict[str, Path]:
    """Return our modules by their dotted names, without generated and empty ones."""
    found: dict[str, Path] = {}
    for band in BANDS:
        for path in sorted((ROOT / band).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "_pb2" in path.name or path.name == "__init__.py":
                continue
            found[".".join(parts)] = path
    return found


def room_of(module: str) -> str:
    """Return a module's folder in dotted form; a file on the top level of its band is a room."""
    room, _, name = module.rpartition(".")
    return f"{room}.{name}" if room in BANDS else room


def imports() -> list[Import]:
    """Return every import between two of our modules."""
    known = modules()
    return [
        Import(importer, imported)
        for importer, path in known.items()
        for imported in _imported(path, known)
    ]


def room_imports() -> dict[str, set[str]]:
    """Return which rooms each room imports, itself left out."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for module in modules():
        arrows[room_of(module)] |= set()
    for found in imports():
        importer, imported = room_of(found.importer), room_of(found.imported)
        if importer != imported:
            arrows[importer].add(imported)
    return dict(arrows)


def _imported(path: Path, known: dict[str, Path]) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names & known.keys()
