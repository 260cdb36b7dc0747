"""A model means what it means in transformers, whatever family, rotary settings, head and files.

GGUF files are written as llama.cpp's converter writes them; the reference is transformers on the
checkpoint that they were made of.
"""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from runtime.models.checkpoint_files import read_checkpoint
from runtime.models.gguf_import import convert
from runtime.models.model_facts import read_facts
from tests.support.gguf_files import write_gguf
from tests.support.reference_models import expected, logits, make_model, save
from tests.support.tiny_transformer import tokens

POSITIONS = 48
PROMPT = tokens(40, vocab_size=67)
SIZES: dict[str, object] = {
    "vocab_size": 67,
    "hidden_size": 64,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": 1e-5,
}
LLAMA3: dict[str, object] = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ORIGINAL: dict[str, object] = {"original_max_position_embeddings": 12}
ROPES: dict[str, dict[str, object]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": ORIGINAL | {"factor": 4.0},
    "llama3": LLAMA3 | ORIGINAL,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
HEADS = ("tied", "untied", "tied flag, own head")


def config_fields(family: str, kind: str, spelling: str, *, tied: bool) -> dict[str, object]:
    """Return a config.json in the spelling of transformers 5 ("new") or before ("old")."""
    fields = SIZES | {"model_type": family, "tie_word_embeddings": tied}
    if spelling == "new":
        return fields | {"rope_parameters": ROPES[kind] | {"rope_type": kind, "rope_theta": 5000.0}}
    scaling = None if kind == "default" else ROPES[kind] | {"type": kind}
    return fields | {"rope_theta": 5000.0, "rope_scaling": scaling}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(
    family: str, kind: str, head: str, tmp_path: Path
) -> None:
    for spelling in ("new", "old"):
        fields = config_fields(family, kind, spelling, tied=head != "untied")
        model = make_model(fields, own_head=head == "tied flag, own head")
        for files in ("safetensors", "sharded"):
            directory = tmp_path / spelling / files
            save(model, fields, directory, files)
            assert (len(list(directory.glob("*.safetensors"))) > 1) == (files == "sharded")
            reference = expected(directory, PROMPT)
            torch.testing.assert_close(logits(directory, PROMPT), reference, atol=1e-4, rtol=0)
    if family.startswith("qwen") and kind == "llama3":
        return  # GGUF has no such models: llama.cpp reads rope_freqs.weight for llama alone
    gguf, converted = write_gguf(tmp_path / "model.gguf", model), tmp_path / "converted"
    converted.mkdir()
    convert(gguf, converted, Progress(console=Console(quiet=True)))
    torch.testing.assert_close(logits(converted, PROMPT), reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_the_stretched_context_is_used_where_the_old_length_still_stands(
    kind: str, spelling: str, tmp_path: Path
) -> None:
    fields = config_fields("llama", kind, spelling, tied=True) | {"max_position_embeddings": 12}
    save(make_model(fields, own_head=False), fields, tmp_path, "safetensors")
    assert read_checkpoint(tmp_path).config.max_positions == POSITIONS
    torch.testing.assert_close(
        logits(tmp_path, PROMPT), expected(tmp_path, PROMPT), atol=1e-4, rtol=0
    )


def test_dynamic_scaling_ends_where_transformers_would_turn_cached_keys_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fields = config_fields("llama", "dynamic", "old", tied=True) | {"max_position_embeddings": 12}
    save(make_model(fields, own_head=False), fields, tmp_path, "safetensors")
    assert read_facts(tmp_path).config.max_positions == 12
    assert "config.json: the context ends at max_position_embeddings, 12 tokens" in caplog.text
    longer = expected(tmp_path, PROMPT)[:12]  # the same tokens, other logits: more of them follow
    assert (logits(tmp_path, PROMPT[:12]) - longer).abs().max() > 0.01
    torch.testing.assert_close(
        logits(tmp_path, PROMPT[:12]), expected(tmp_path, PROMPT[:12]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_stretching_changes_the_logits_that_are_compared(kind: str, tmp_path: Path) -> None:
    found = []
    for name in (kind, "default"):
        fields = config_fields("llama", name, "new", tied=False)
        save(make_model(fields, own_head=False), fields, tmp_path / name, "safetensors")
        found.append(logits(tmp_path / name, PROMPT))
    assert (found[0] - found[1]).abs().max() > 0.1
