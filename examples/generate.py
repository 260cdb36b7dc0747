"""Generate text with a drafter, and show what speculation did.

python examples/generate.py --prompt "The planets of the solar system are"
"""

import argparse
import json
import subprocess
import sys


def generate(target: str, prompt: str, max_tokens: int) -> dict[str, object]:
    """Run `paceline generate` once and return its JSON object."""
    command = [sys.executable, "-m", "cluster.cli", "generate", "--json"]
    command += ["--target", target, "--prompt", prompt, "--max-tokens", str(max_tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def main() -> None:
    """Print the text, and how many draft tokens the target accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="smollm2-135m", help="the model")
    parser.add_argument("--prompt", default="The planets of the solar system are")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()

    result = generate(options.target, options.prompt, options.max_tokens)
    stats = result["stats"]
    assert isinstance(stats, dict)
    print(options.prompt + str(result["text"]))
    print(
        f"\n{stats['accepted']} of {stats['drafted']} draft tokens accepted in "
        f"{stats['rounds']} rounds, {stats['tokens_per_s']} tokens/s"
    )


if __name__ == "__main__":
    main()
