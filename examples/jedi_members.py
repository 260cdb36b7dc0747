"""Complete Python code with members that exist: a monitor asks jedi what may follow each dot.

python examples/jedi_members.py --file shop.py

As a monitor of `paceline generate` or `paceline serve`, it is named jedi_members:members where this
file is on Python's path.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

CODE = """class Basket:
    def __init__(self):
        self.items = []

    def put_in(self, item):
        self.items.append(item)

    def total_price(self):
        return sum(item.price for item in self.items)


def pay(basket: Basket):
    print(basket."""


def members(text: str) -> list[str] | None:
    """Return the names that may follow the last dot of Python code; None where jedi knows none."""
    try:
        jedi = importlib.import_module("jedi")
    except ImportError as error:
        raise RuntimeError(
            "jedi is not installed: install Paceline with its extra, paceline[monitors]"
        ) from error
    lines = text.split("\n")
    found = jedi.Script(text).complete(len(lines), len(lines[-1]))
    return [one.name for one in found] or None


members.trigger = "."  # type: ignore[attr-defined]  # what asks for it


def completed(target: str, code: str, *, seed: int, monitored: bool) -> str:
    """Return what a model writes after some code."""
    command = [sys.executable, "-m", "cluster.cli", "generate", "--json", "--target", target]
    command += ["--prompt", code, "--max-tokens", "16", "--temperature", "1", "--seed", str(seed)]
    if monitored:
        command += ["--set", "constraint.monitor=jedi_members:members"]
    here = str(Path(__file__).resolve().parent)
    paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    return str(json.loads(done.stdout)["text"])


def main() -> None:
    """Complete the code with the monitor and without it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="smollm2-135m", help="the model")
    parser.add_argument("--file", type=Path, help="Python code that ends where it is continued")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    code = options.file.read_text(encoding="utf-8").rstrip() if options.file else CODE
    for monitored in (False, True):
        text = completed(options.target, code, seed=options.seed, monitored=monitored)
        print(f"--- {'with' if monitored else 'without'} the monitor\n{code}{text}\n")


if __name__ == "__main__":
    main()
