"""The verb that compares weight formats, on a tiny model."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from cluster.cli.main import app
from tests.support.tiny_checkpoint import save_tiny_checkpoint


def quality(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["bench", "quality", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_formats_are_compared_and_an_interrupted_run_resumes(tmp_path: Path) -> None:
    target = save_tiny_checkpoint(tmp_path / "model")
    texts, keep, out = (tmp_path / name for name in ("texts.jsonl", "keep.jsonl", "out.json"))
    lines = [{"question": f"w{n} w2", "answer": f"w3 w{n} w5 w8"} for n in range(4)]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["--target", str(target), "--texts", str(texts), "--num-texts", "3"]
    arguments += ["--weights", "float32,bfloat16", "--threads", "1"]
    found: dict[str, Any] = json.loads(
        quality(*arguments, "--keep", str(keep), "--out", str(out), "--json")
    )
    assert found == json.loads(out.read_text())
    exact, coarse = found["rows"]
    assert (exact["weights"], exact["perplexity_ratio"], exact["kl"]) == ("float32", 1.0, 0.0)
    assert coarse["scored_tokens"] == 12
    assert coarse["perplexity"] > 1

    kept = keep.read_text().splitlines(keepends=True)
    assert len(kept) == 4
    keep.write_text("".join(kept[:2]))
    again = json.loads(quality(*arguments, "--keep", str(keep), "--json"))
    assert again["rows"] == found["rows"]
    assert keep.read_text() == "".join(kept)
    assert "same best token" in quality(*arguments, "--keep", str(keep))
