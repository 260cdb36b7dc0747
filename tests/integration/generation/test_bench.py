"""The bench verbs that deploy engines, on virtual devices and in one Ray."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app

pytestmark = pytest.mark.usefixtures("ray_session")

LAYERS = "target=4ms,layers=8,attention=0.2ms,mlp=0.1ms,alpha=0.8,vocab=64"


def bench(*arguments: str) -> dict[str, Any]:
    """Return what a verb prints as JSON."""
    done = CliRunner().invoke(app, ["bench", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_modes_are_compared_and_an_interrupted_run_measures_nothing_twice(tmp_path: Path) -> None:
    arguments: tuple[str, ...] = ("decode", "--virtual", "target=4ms,draft=1ms,alpha=0.8,vocab=64")
    arguments += ("--repeats", "1", "--max-tokens", "16", "--draft-length", "3")
    arguments += ("--set", f"keep={tmp_path / 'runs.jsonl'}")
    first = bench(*arguments)
    rows = first["rows"]
    assert [row["mode"] for row in rows] == ["autoregressive", "speculative", "pearl"]
    assert all(row["identical"] for row in rows)
    assert rows[0]["drafted"] == 0
    for row in rows[1:]:
        assert row["accepted"] > 0
        assert row["predicted_tokens_per_s"] > rows[0]["predicted_tokens_per_s"]
    assert bench(*arguments)["rows"] == rows  # the figures of the file


def test_layers_at_a_time_are_compared_on_several_ranks(tmp_path: Path) -> None:
    plot = tmp_path / "layers.png"
    arguments = ("layer-parallel", "--virtual", LAYERS, "--widths", "1,4", "--drafter-tp", "1,2")
    found = bench(*arguments, "--max-tokens", "12", "--draft-length", "3", "--plot", str(plot))
    rows = found["rows"]
    assert [(row["drafter_tp"], row["layer_parallel"]) for row in rows] == [
        (1, 1),
        (1, 4),
        (2, 1),
        (2, 4),
    ]
    assert [row["attention_depth"] for row in rows] == [8, 2, 8, 2]
    assert all(row["identical"] for row in rows)
    assert all(row["drafted"] > 0 for row in rows)
    assert plot.read_bytes().startswith(b"\x89PNG")
