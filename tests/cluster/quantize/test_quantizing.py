"""The verb writes a copy, and says what it changes."""

import json
from pathlib import Path

import pytest

from cluster.options.quantize_options import QuantizeOptions
from cluster.quantize import copy_quality
from cluster.quantize.quantizing import run
from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.models.model_facts import read_facts
from runtime.models.quantized_copy import REPORT_FILE, quantize_checkpoint
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
    assert {"out": str(out)} | json.loads((out / REPORT_FILE).read_text()) == report
    assert report["quality"]["texts"] == "the samples"
    assert 0.001 < abs(report["quality"]["perplexity_ratio"] - 1) < 0.5


def test_people_read_a_table(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(QuantizeOptions(model=str(model), out=tmp_path / "copy"))
    said = capsys.readouterr().err
    assert "mlp.gate_proj" in said
    assert "int8" in said
    assert "MB of weights, from" in said
    assert "perplexity of the samples: " in said


def test_a_copy_without_scores_says_why(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(QuantizeOptions(model=str(model), out=tmp_path / "off", measure=False))
    assert "perplexity was not measured: scoring is switched off" in capsys.readouterr().err
    monkeypatch.setattr(copy_quality, "available_bytes", lambda: 1000)
    run(QuantizeOptions(model=str(model), out=tmp_path / "large"))
    assert "GB of memory together, 0.0 GB are free" in capsys.readouterr().err
    (model / "tokenizer.json").unlink()
    run(QuantizeOptions(model=str(model), out=tmp_path / "mute"))
    assert "tokenizer" in capsys.readouterr().err
    report = json.loads((tmp_path / "mute" / REPORT_FILE).read_text())
    assert "tokenizer" in report["quality"]["not_measured"]


def test_texts_that_cannot_be_scored_are_rejected_before_anything_is_written(
    model: Path, tmp_path: Path
) -> None:
    texts, out = tmp_path / "texts.jsonl", tmp_path / "copy"
    texts.write_text('{"question": "w1"}\n')
    with pytest.raises(ConfigError, match=r"texts.jsonl, line 1: .*question without an answer"):
        run(QuantizeOptions(model=str(model), out=out, texts=texts))
    with pytest.raises(ConfigError, match="`measure` is off"):
        run(QuantizeOptions(model=str(model), out=out, texts=texts, measure=False))
    assert not out.exists()


def test_a_copy_of_a_copy_has_its_own_report(model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(QuantizeOptions(model=str(model), out=first, measure=False))
    quantize_checkpoint(first, second, WeightFormat.INT4)
    assert (first / REPORT_FILE).is_file()
    assert not (second / REPORT_FILE).exists()
