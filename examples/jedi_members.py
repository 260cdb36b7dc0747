"""Complete Python code with members that exist: a monitor asks jedi what may follow each dot.

python examples/jedi_members.py --file shop.py
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

CODE = """class Basket:
    def put_in(self, item):
        self.items = [*self.items, item]


def pay(basket: Basket):
    basket."""


def members(text: str) -> list[str] | None:
    """Return the names that may follow the last dot of Python code; None where jedi knows none."""
    try:
        jedi = importlib.import_module("jedi")
    except ImportError as error:
        raise RuntimeError("jedi is missing: pip install 'paceline[monitors]'") from error
    lines = text.split("\n")
    found = jedi.Script(text).complete(len(lines), len(lines[-1]))
    return [one.name for one in found] or None


members.trigger = "."  # type: ignore[attr-defined]  # what asks for it


def completed(target: str, code: str, *settings: str) -> str:
    """Return what a model writes after some code."""
    command = [sys.executable, "-m", "cluster.cli", "generate", "--json", "--target", target]
    command += ["--prompt", code, "--max-tokens", "16", "--temperature", "1"]
    for setting in settings:
        command += ["--set", setting]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}  # where the monitor is found
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return str(json.loads(done.stdout)["text"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="smollm2-135m", help="the model")
    parser.add_argument("--file", type=Path, help="Python code that ends where it is continued")
    options = parser.parse_args()
    code = options.file.read_text(encoding="utf-8").rstrip() if options.file else CODE
    print("without the monitor:", completed(options.target, code))
    print("with it:", completed(options.target, code, "constraint.monitor=jedi_members:members"))
