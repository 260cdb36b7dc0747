"""Lists of what a room's modules define, for registries that need no entry for a new module."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def modules_of(room: ModuleType, *, suffix: str = "") -> Iterator[ModuleType]:
    """Import and yield the modules of a room whose names end with a suffix, in alphabetical order.

    Args:
        room: a package.
        suffix: "" takes all modules.
    """
    for found in sorted(pkgutil.iter_modules(room.__path__), key=lambda module: module.name):
        if found.name.endswith(suffix):
            yield importlib.import_module(f"{room.__name__}.{found.name}")
