"""A model means what it means in transformers, whatever family, rotary settings, head and files.

GGUF files are written as llama.cpp's converter writes them; the reference is transformers on the
checkpoint that they were made of.
"""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from parallel.group import SoloGroup
from runtime.models.checkpoint_files import read_checkpoint
from runtime.models.gguf_import import convert
from runtime.models.model_facts import read_facts
from runtime.models.weights import load_decoder
from tests.support.gguf_files import write_gguf
from tests.support.tiny_transformer import CPU, score, tokens

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


def make_model(fields: dict[str, object], *, own_head: bool) -> PreTrainedModel:
    config = AutoConfig.for_model(**json.loads(json.dumps(fields)))
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise + 1 if "norm" in name else noise)
        if own_head:
            head = torch.randn(model.lm_head.weight.shape, generator=generator) * 0.2
            model.lm_head.weight = torch.nn.Parameter(head)
    return model


def save(model: PreTrainedModel, fields: dict[str, object], directory: Path, files: str) -> None:
    """Write a checkpoint with exactly these fields."""
    model.save_pretrained(directory, max_shard_size="15KB" if files == "sharded" else "1GB")
    (directory / "config.json").write_text(json.dumps(fields))
    head, weights = "lm_head.weight", model.state_dict()
    if torch.equal(weights[head], weights["model.embed_tokens.weight"]):
        return
    index = directory / "model.safetensors.index.json"
    listed = json.loads(index.read_text()) if index.exists() else {"weight_map": {}}
    first = min(file.name for file in directory.glob("*.safetensors"))
    name = listed["weight_map"].setdefault(head, first)
    weights = load_file(directory / name) | {head: weights[head].detach()}
    save_file(weights, directory / name, {"format": "pt"})
    if index.exists():
        index.write_text(json.dumps(listed))


def logits(directory: Path, prompt: tuple[int, ...] = PROMPT) -> Tensor:
    return score(load_decoder(directory, SoloGroup(), dtype=torch.float32, device=CPU), prompt)


def expected(directory: Path, prompt: tuple[int, ...] = PROMPT) -> Tensor:
    """Return what transformers computes from the files themselves."""
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        found: Tensor = reference(torch.tensor([prompt]), use_cache=False).logits[0]
    return found


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
            reference = expected(directory)
            torch.testing.assert_close(logits(directory), reference, atol=1e-4, rtol=0)
    if family.startswith("qwen") and kind == "llama3":
        return  # GGUF has no such models: llama.cpp reads rope_freqs.weight for llama alone
    gguf, converted = write_gguf(tmp_path / "model.gguf", model), tmp_path / "converted"
    converted.mkdir()
    convert(gguf, converted, Progress(console=Console(quiet=True)))
    torch.testing.assert_close(logits(converted), reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_the_stretched_context_is_used_where_the_old_length_still_stands(
    kind: str, spelling: str, tmp_path: Path
) -> None:
    fields = config_fields("llama", kind, spelling, tied=True) | {"max_position_embeddings": 12}
    save(make_model(fields, own_head=False), fields, tmp_path, "safetensors")
    assert read_checkpoint(tmp_path).config.max_positions == POSITIONS
    torch.testing.assert_close(logits(tmp_path), expected(tmp_path), atol=1e-4, rtol=0)


def test_dynamic_scaling_ends_where_transformers_would_turn_cached_keys_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fields = config_fields("llama", "dynamic", "old", tied=True) | {"max_position_embeddings": 12}
    save(make_model(fields, own_head=False), fields, tmp_path, "safetensors")
    assert read_facts(tmp_path).config.max_positions == 12
    assert "config.json: the context ends at max_position_embeddings, 12 tokens" in caplog.text
    longer = expected(tmp_path)[:12]  # the same tokens, other logits: more of them follow
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
        found.append(logits(tmp_path / name))
    assert (found[0] - found[1]).abs().max() > 0.1
