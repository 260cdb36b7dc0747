"""Fine-tune an adapter on a few samples, merge it, and generate from the result.

python examples/train_and_merge.py --directory my-run
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

COLORS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}
JOB = """
model = {model}
out = "run"

[data]
train = "train.jsonl"
prompt = "The color of {{thing}} is"
completion = " {{color}}"

[optimizer]
steps = {steps}
batch = 4
lr = 5e-3

[workers]
count = 2
"""


def paceline(*arguments: str) -> None:
    """Run a verb of the command line."""
    subprocess.run([sys.executable, "-m", "cluster.cli", *arguments], check=True)


def main() -> None:
    """Write the data and the job file, then run the three verbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="smollm2-135m", help="the model")
    parser.add_argument("--directory", type=Path, default=Path("my-run"), help="where files go")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    directory: Path = options.directory
    directory.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"thing": thing, "color": color}) for thing, color in COLORS.items()]
    (directory / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    job = directory / "job.toml"
    job.write_text(JOB.format(model=json.dumps(options.target), steps=options.steps), "utf-8")

    paceline("train", str(job))
    paceline("train", "merge", str(directory / "run" / "final"), "--out", str(directory / "merged"))
    merged = str(directory / "merged")
    paceline("generate", "--target", merged, "--prompt", "The color of grass is")


if __name__ == "__main__":
    main()
