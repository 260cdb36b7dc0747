"""Regenerate the wire modules: `python -m protos.generate [--check]`, from any folder.

Every `.proto` file under `protos/` yields `_pb2.py`, `_pb2.pyi`, `_pb2_grpc.py` and `_pb2_grpc.pyi`
beside it. Needs grpcio-tools and mypy-protobuf (the `dev` extra).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
ROOT = PROTOS.parent
_IMPORT = re.compile(r"^((?:from|import) )paceline\.", re.MULTILINE)
"""Imports that protoc writes; our wire modules are in the package `protos`."""


def main() -> int:
    """Write the generated modules; with --check, list those that differ and return 1."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        stale = [path for path in generate(Path(folder)) if _is_stale(Path(folder), path)]
        for path in stale:
            if not check:
                (ROOT / path).write_bytes((Path(folder) / path).read_bytes())
            print(f"{'differs' if check else 'wrote'}: {path}")
    return 1 if check and stale else 0


def generate(folder: Path) -> list[Path]:
    """Run protoc into `folder` and return the files it wrote, relative to it."""
    protos = [str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))]
    made = folder / PROTOS.name
    made.mkdir()
    outs = ("--python_out", "--grpc_python_out", "--mypy_out", "--mypy_grpc_out")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    scripts = str(Path(sys.executable).parent)  # protoc finds protoc-gen-mypy by PATH
    subprocess.run(
        [*command, *(f"{out}={made}" for out in outs), *protos],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"},
        check=True,
        stderr=subprocess.DEVNULL,  # mypy-protobuf reports every file it writes
    )
    found = sorted(folder.rglob("*_pb2*"))
    for path in found:
        path.write_text(_IMPORT.sub(r"\1protos.paceline.", path.read_text()))
    return [path.relative_to(folder) for path in found]


def _is_stale(folder: Path, path: Path) -> bool:
    committed = ROOT / path
    return not committed.exists() or committed.read_bytes() != (folder / path).read_bytes()


if __name__ == "__main__":
    sys.exit(main())
