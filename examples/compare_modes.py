"""Decode one prompt in every mode: the tokens are the same, the speed is not.

python examples/compare_modes.py --prompt "Once upon a time"
"""

import argparse
import json
import subprocess
import sys
from typing import Any


def measure(target: str, prompt: str, max_tokens: int) -> list[dict[str, Any]]:
    """Return a row for each mode; the runs are interleaved, and sample with the same seed."""
    command = [sys.executable, "-m", "cluster.cli", "bench", "decode", "--json", "--target", target]
    command += ["--modes", "autoregressive,speculative,pearl", "--drafter", "ngram"]
    command += ["--max-tokens", str(max_tokens), "--set", "decode.temperature=0.8"]
    command += ["--set", f"input.prompt={prompt}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def main() -> int:
    """Print a line for each mode; return 1 if the tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="smollm2-135m", help="the model")
    parser.add_argument("--prompt", default="apples, pears, plums, apples, pears, plums, apples,")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()

    rows = measure(options.target, options.prompt, options.max_tokens)
    for row in rows:
        print(f"{row['mode']:15} {row['tokens_per_s']:6.1f} tokens/s")
    is_same = all(row["identical"] for row in rows)
    print("identical tokens" if is_same else "tokens DIFFER")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
