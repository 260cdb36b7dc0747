"""The verb that compares steps with adapters to steps without, on a tiny model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from tests.support.tiny_checkpoint import MAX_POSITIONS, save_tiny_checkpoint


def test_every_kind_of_step_is_compared_with_the_base(tmp_path: Path) -> None:
    target = save_tiny_checkpoint(tmp_path / "model")
    command = ["bench", "adapters", "--target", str(target), "--threads", "1", "--context", "20"]
    command += ["--sequences", "1,4", "--repeats", "2", "--rank", "2"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["config"]["targets"] == ["q_proj", "v_proj"]
    assert [row["sequences"] for row in found["rows"]] == [1] * 3 + [4] * 5
    assert all(row["ratio"] > 0 for row in found["rows"])
    shown = CliRunner().invoke(app, command).stdout
    assert "three adapters and base" in shown
    assert "one step of 4 sequences" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--context", str(MAX_POSITIONS)], f"--context {MAX_POSITIONS} and 1 rows"),
        (["--targets", "lm_head"], "has 'lm_head': choose among q_proj"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    target = save_tiny_checkpoint(tmp_path / "model")
    command = ["bench", "adapters", "--target", str(target), *arguments]
    done = CliRunner().invoke(app, command)
    assert words in str(done.exception)
