"""A copy in integer codes has the model's nearest weights, its tokenizer and its settings."""

import json
import os
from pathlib import Path

import pytest
import torch

from parallel.weights.quantize import relative_error
from parallel.weights.stored_matrix import StoredMatrix
from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint
from runtime.models.quantized_copy import quantize_checkpoint
from runtime.models.tokenizer import Tokenizer
from runtime.weights.checkpoint_source import CheckpointSource
from tests.support.stored_checkpoints import (
    edit_config,
    equal_bits,
    save_stored,
    stored_as,
    wide_model,
)
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import CPU

GROUPED = [WeightFormat.INT8, WeightFormat.INT4]


@pytest.mark.parametrize("form", GROUPED)
def test_a_copy_has_what_loading_in_the_format_gives(form: WeightFormat, tmp_path: Path) -> None:
    model = wide_model()
    original, out = save_stored(tmp_path / "model", None, model), tmp_path / "out" / "copy"
    copy = quantize_checkpoint(original, out, form)
    source = CheckpointSource(out, form, CPU)
    for name, tensor in model.reference.state_dict().items():
        expected = stored_as(tensor, form)
        if isinstance(expected, StoredMatrix):
            found = source.read_matrix(name, 0, 0, len(tensor))
            assert isinstance(found, StoredMatrix)
            assert equal_bits(found.dequantized(), expected.dequantized())
        else:
            assert equal_bits(source.read(name), expected)
    weights = model.source.read("lm_head.weight")
    error = relative_error(stored_as(weights, form), weights)
    assert copy.kinds["lm_head"].relative == pytest.approx(error)
    assert copy.kinds["mlp.down_proj"].relative == 0.0
    assert copy.bytes_before == sum(t.nbytes for t in model.reference.state_dict().values())
    entries = read_checkpoint(out).tensors.values()
    assert copy.bytes_after == sum(entry.num_bytes for entry in entries)


@pytest.mark.parametrize("stored", GROUPED)
@pytest.mark.parametrize("form", GROUPED)
def test_codes_that_suffice_are_kept(
    stored: WeightFormat, form: WeightFormat, tmp_path: Path
) -> None:
    original = save_stored(tmp_path / "model", stored)
    copy = quantize_checkpoint(original, tmp_path / "copy", form)
    errors = {kind.relative for kind in copy.kinds.values()}
    assert (errors == {0.0}) is (stored is form or form is WeightFormat.INT8)


def test_a_large_model_is_written_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, out = save_stored(tmp_path / "model", None), tmp_path / "copy"
    quantize_checkpoint(original, tmp_path / "whole", WeightFormat.INT4)
    monkeypatch.setattr("runtime.weights.weight_writer.FILE_BYTES", 5000)
    quantize_checkpoint(original, out, WeightFormat.INT4)
    parts = sorted(out.glob("*.safetensors"))
    assert len(parts) > 3
    assert not (out / "paceline.safetensors").exists()
    assert (out / "paceline.safetensors.index.json").is_file()
    sources = [CheckpointSource(tmp_path / name, "int4", CPU) for name in ("whole", "copy")]
    for name in read_checkpoint(out).tensors:
        assert torch.equal(*(source.read(name) for source in sources))


def test_tokenizer_and_settings_are_copied(tmp_path: Path) -> None:
    original = save_tiny_checkpoint(tmp_path / "model", hidden_size=288)
    edit_config(original, bos_token_id=7)
    (original / "additional_chat_templates").mkdir()
    (original / "additional_chat_templates" / "tool.jinja").write_text("x")
    out = tmp_path / "copy"
    quantize_checkpoint(original, out, WeightFormat.INT8)
    config = json.loads((out / "config.json").read_text())
    assert config.pop("quantization_config") == {"quant_method": "paceline", "version": 1}
    assert config == json.loads((original / "config.json").read_text())
    assert Tokenizer.load(out).digest == Tokenizer.load(original).digest
    assert (out / "additional_chat_templates" / "tool.jinja").read_text() == "x"
    assert (out / "generation_config.json").is_file()
    assert not (out / "model.safetensors").exists()


def test_a_model_without_whole_groups_stays_a_plain_one(tmp_path: Path) -> None:
    original = save_tiny_checkpoint(tmp_path / "model")  # rows of 36 and 52 and 72 weights
    quantize_checkpoint(original, tmp_path / "copy", WeightFormat.INT4)
    assert (tmp_path / "copy" / "model.safetensors").is_file()
    assert "quantization_config" not in json.loads((tmp_path / "copy" / "config.json").read_text())
    read_checkpoint(tmp_path / "copy")


def test_a_directory_with_files_is_not_touched(tmp_path: Path) -> None:
    original, out = save_stored(tmp_path / "model", None), tmp_path / "copy"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(ConfigError, match=r"`out` is .*copy, which exists: name a new directory"):
        quantize_checkpoint(original, out, WeightFormat.INT8)
    assert os.listdir(out) == ["mine"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    original = save_stored(tmp_path / "model", None)
    seen: list[int] = []

    def watch(done: int, total: int) -> None:
        assert total > 4
        seen.append(done)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(original, tmp_path / "copy", WeightFormat.INT8, watch)
    assert seen == [0, 1, 2, 3, 4]
    assert os.listdir(tmp_path) == ["model"]
