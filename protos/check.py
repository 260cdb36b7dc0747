"""Check the protos: `python -m protos.check [--against REF]`, from any folder. Runs buf's STANDARD
lint rules, and compares with the last release, the newest tag of the form v1.2.3, for changes that
break its clients. Needs buf (the `dev` extra); without a release there is no comparison.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run both checks; return 1 if one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m protos.check", description=__doc__)
    parser.add_argument("--against", metavar="REF", help="a git revision in place of the release")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root: Path = arguments.root
    against = arguments.against or _last_release(root)
    found = _buf(root, "lint")
    if against is None:
        print("no release is tagged: nothing to break")
        return found
    return found or _buf(root, "breaking", "--against", f".git#ref={against}")


def _buf(root: Path, *arguments: str) -> int:
    scripts = str(Path(sys.executable).parent)  # buf lies beside the interpreter
    path = f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(["buf", *arguments], cwd=root, env={**os.environ, "PATH": path})
    return int(done.returncode != 0)


def _last_release(root: Path) -> str | None:
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.stdout.strip() or None if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
