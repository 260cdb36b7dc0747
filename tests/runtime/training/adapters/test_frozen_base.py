"""A base in low precision is transformers' model with the numbers that are held, in less memory."""

from pathlib import Path

import pytest
import torch

from parallel.training.frozen_linear import FrozenLinear, weight_of
from runtime.models.transformers_model import load_transformers
from runtime.training.adapters.base_model import has_tied_head
from runtime.training.adapters.frozen_base import lengths_of, load_frozen
from tests.support.frozen_models import num_bytes, with_numbers_of
from tests.support.reference_models import make_model
from tests.support.tiny_checkpoint import save_tiny_checkpoint

WIDE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
def test_logits_are_those_of_transformers_with_the_same_numbers(
    tmp_path: Path, precision: str, tied: bool
) -> None:
    save_tiny_checkpoint(tmp_path, tie_word_embeddings=tied, **WIDE)
    frozen = load_frozen(tmp_path, precision)
    exact = load_transformers(tmp_path, torch.float32).eval()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        ours, before = frozen(ids).logits, exact(ids).logits
        wanted = with_numbers_of(exact, frozen)(ids).logits
    assert ours.dtype == torch.float32
    assert not torch.allclose(before, ours, atol=1e-4)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert has_tied_head(frozen) == tied


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 0.6), ("int8", 0.4), ("int4", 0.35)])
def test_memory_falls_with_the_precision(tmp_path: Path, precision: str, most: float) -> None:
    save_tiny_checkpoint(tmp_path, **WIDE)
    exact = load_transformers(tmp_path, torch.float32)
    assert num_bytes(load_frozen(tmp_path, precision)) <= most * num_bytes(exact)


def test_an_embedding_that_scales_what_it_looks_up_stays_in_float32(tmp_path: Path) -> None:
    fields: dict[str, object] = {"model_type": "gemma3_text", "vocab_size": 101} | {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    make_model(fields, own_head=False).save_pretrained(tmp_path)
    frozen = load_frozen(tmp_path, "bfloat16")
    exact = with_numbers_of(load_transformers(tmp_path, torch.float32).eval(), frozen)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        torch.testing.assert_close(frozen(ids).logits, exact(ids).logits, atol=1e-5, rtol=1e-5)
    assert frozen.get_input_embeddings().weight.dtype == torch.float32


def test_lengths_are_those_of_the_rows_that_workers_hold(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path, **WIDE)
    name = "model.layers.1.self_attn.v_proj"
    layer = load_frozen(tmp_path, "int4").get_submodule(name)
    assert isinstance(layer, FrozenLinear)
    wanted = weight_of(layer).norm(dim=1)
    found = lengths_of(tmp_path, "int4", [f"{name}.lora_A", f"{name}.lora_magnitude_vector"])
    assert list(found) == [f"{name}.lora_magnitude_vector"]
    torch.testing.assert_close(found[f"{name}.lora_magnitude_vector"].detach(), wanted)
