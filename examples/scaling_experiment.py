"""Predict how a target and its drafter scale over devices, without any of them.

python examples/scaling_experiment.py --out my-sweep
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

SWEEP = """
title = "A large target on up to eight devices"
out = "results"

[devices]
target = "2ms"
split = "42ms"
draft = "2ms"
alpha = 0.8

[network]
link = "0.05ms"
inside = "0.004ms"

[requests]
num = 2
max_tokens = 128

[sweep]
tp = [1, 2, 4, 8]
mode = ["autoregressive", "speculative", "pearl"]
"""


def main() -> None:
    """Simulate every point of the sweep; print tokens per second, and where the report is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("my-sweep"), help="where files go")
    directory: Path = parser.parse_args().out
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "sweep.toml"
    file.write_text(SWEEP, encoding="utf-8")

    command = [sys.executable, "-m", "cluster.cli", "experiment", "plan", str(file), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    for point, prediction in json.loads(done.stdout).items():
        print(f"{point:30} {prediction['rate']:7.1f} tokens/s")
    print(f"report: {directory / 'results' / 'report.html'}")


if __name__ == "__main__":
    main()
