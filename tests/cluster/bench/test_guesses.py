"""The verb that shows how soon guesses are right, on a tiny model."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from cluster.cli.main import app
from tests.support.tiny_checkpoint import save_tiny_checkpoint


def guesses(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", "guesses", *arguments])


def test_guesses_are_counted_and_an_interrupted_run_resumes(tmp_path: Path) -> None:
    target = save_tiny_checkpoint(tmp_path / "model")
    prompts, keep, out = (tmp_path / name for name in ("prompts.jsonl", "keep.jsonl", "out.json"))
    lines = [{"prompt": f"w{n} w2 w3"} for n in range(3)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["--target", str(target), "--drafter", "target:layers=0", "--threads", "1"]
    arguments += ["--prompts", str(prompts), "--num-prompts", "2", "--max-tokens", "16"]
    arguments += ["--temperature", "0,1", "--keep", str(keep)]
    first = guesses(*arguments, "--out", str(out), "--json")
    assert first.exit_code == 0, first.output
    found: dict[str, Any] = json.loads(first.stdout)
    assert found == json.loads(out.read_text())
    assert [row["temperature"] for row in found["rows"]] == [0.0, 1.0]
    for row in found["rows"]:
        assert row["num_places"] == 32
        assert 0 < row["perturbed"][0] <= row["perturbed"][-1] <= 32
        assert row["num_verdicts"] > 0

    kept = keep.read_text().splitlines(keepends=True)
    assert len(kept) == 5
    keep.write_text("".join(kept[:3]))
    again = guesses(*arguments, "--json")
    for row, before in zip(json.loads(again.stdout)["rows"], found["rows"], strict=True):
        assert row["perturbed"] == before["perturbed"]
        assert row["num_places"] == before["num_places"]
    shown = guesses(*arguments).stdout
    assert "without replacement" in shown
    assert "that reject a draft" in shown


def test_what_ranks_no_tokens_is_rejected(tmp_path: Path) -> None:
    target = save_tiny_checkpoint(tmp_path / "model")
    for drafter in ("ngram", "lookup"):
        done = guesses("--target", str(target), "--drafter", drafter, "--set", "input.prompt=w1")
        assert f"{drafter}, which ranks no tokens" in str(done.exception)
