"""The environment of a run: versions and hardware, without names of hosts or people."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from runtime.node.cpu_facts import read_cpu_facts

_PACKAGES = ("paceline", "torch", "ray", "grpcio", "numpy", "transformers")
_GIT_TIMEOUT_S = 5.0


def environment() -> dict[str, object]:
    """Return the current environment."""
    cpu = read_cpu_facts()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu.model,
        "instructions": list(cpu.instructions),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None  # runs from a source directory, not installed


def _commit() -> str | None:
    """Return the commit of the code, marked if files have changed since; None without git."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        made = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return made.stdout.strip() or None
