"""The verb that shows the parts of a step, on a tiny model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from tests.support.tiny_checkpoint import MAX_POSITIONS, save_tiny_checkpoint


def step(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["bench", "step", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_parts_are_printed_and_written(tmp_path: Path) -> None:
    target, out = save_tiny_checkpoint(tmp_path / "model"), tmp_path / "step.json"
    arguments = ["--target", str(target), "--threads", "1", "--context", "30", "--rows", "1,3"]
    arguments += ["--repeats", "2", "--out", str(out)]
    found = json.loads(step(*arguments, "--json"))
    assert found == json.loads(out.read_text())
    assert found["config"]["context"] == 30
    assert [row["rows"] for row in found["rows"]] == [1, 3]
    for row in found["rows"]:
        assert sum(row["parts_ms"].values()) == pytest.approx(row["total_ms"], abs=0.01)
    shown = step(*arguments)
    assert "norms, RoPE, activation" in shown
    assert "3 rows" in shown


def test_a_context_beyond_the_model_is_refused_with_its_flag(tmp_path: Path) -> None:
    target = save_tiny_checkpoint(tmp_path / "model")
    arguments = ["bench", "step", "--target", str(target), "--context", str(MAX_POSITIONS)]
    done = CliRunner().invoke(app, arguments)
    assert f"--context {MAX_POSITIONS} and 16 rows" in str(done.exception)
    assert f"reads at most {MAX_POSITIONS}" in str(done.exception)
