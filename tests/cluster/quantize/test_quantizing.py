"""The verb writes a copy, and says what it changes."""

import json
from pathlib import Path

import pytest

from cluster.options.quantize_options import QuantizeOptions
from cluster.quantize.quantizing import run
from runtime.models.model_facts import read_facts
from tests.support.tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "model", hidden_size=288, intermediate_size=96)


def test_the_report_has_every_kind_of_matrix_and_both_sizes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    assert run(QuantizeOptions(model=str(model), weights="int4", out=out, json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["out"] == str(out)
    assert report["bytes_after"] < 0.4 * report["bytes_before"]
    assert report["kinds"].keys() == {
        "embed_tokens",
        "lm_head",
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    }
    up, rows = report["kinds"]["mlp.up_proj"], report["kinds"]["self_attn.o_proj"]
    assert (up["matrices"], up["formats"]) == (3, ["int4"])
    assert 0.04 < up["relative_error"] < 0.1
    assert (rows["formats"], rows["relative_error"]) == (["float32"], 0.0)  # of 72 columns
    assert read_facts(out).weight_bytes("int4", "cpu") == report["bytes_after"]


def test_people_read_a_table(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(QuantizeOptions(model=str(model), out=tmp_path / "copy"))
    said = capsys.readouterr().err
    assert "mlp.gate_proj" in said
    assert "int8" in said
    assert "MB of weights, from" in said
