"""What a checkpoint needs, before any weight is read."""

from pathlib import Path

import pytest

from parallel.weights.weight_format import WeightFormat
from runtime.models.model_facts import read_facts
from runtime.weights.checkpoint_source import CheckpointSource
from tests.support.stored_checkpoints import num_bytes, save_stored
from tests.support.tiny_transformer import CPU, tiny_model


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_have_the_bytes_of_all_parameters(
    kind: str, tied: bool, tmp_path: Path
) -> None:
    reference = tiny_model(kind, tie_word_embeddings=tied).reference
    reference.save_pretrained(tmp_path)
    table = reference.model.embed_tokens.weight.numel() if tied else 0  # held for look-up and head
    vectors = sum(p.numel() for p in reference.parameters() if p.dim() == 1)  # always in float32
    facts = read_facts(tmp_path)
    assert facts.weight_bytes("float32", "cpu") == 4 * (reference.num_parameters() + table)
    assert facts.weight_bytes("bfloat16", "cpu") == (
        2 * (reference.num_parameters() + table) + 2 * vectors
    )
    assert facts.weight_bytes("bfloat16", "cuda") == 2 * (reference.num_parameters() + table)


def test_layers_that_are_left_out_need_no_memory(tmp_path: Path) -> None:
    reference = tiny_model().reference
    reference.save_pretrained(tmp_path)
    layer = sum(p.numel() for p in reference.model.layers[1].parameters())
    facts = read_facts(tmp_path)
    assert (
        facts.weight_bytes("float32", "cpu") - facts.weight_bytes("float32", "cpu", (0, 2))
        == 4 * layer
    )


@pytest.mark.parametrize("stored", [None, *WeightFormat])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_weights_have_the_bytes_of_what_is_held(
    stored: WeightFormat | None, weights: str, tmp_path: Path
) -> None:
    directory = save_stored(tmp_path / "model", stored)
    facts = read_facts(directory)
    source = CheckpointSource(directory, weights, CPU)
    held = sum(
        num_bytes(source.read_matrix(name, 0, 0, entry.shape[0]))
        if len(entry.shape) == 2
        else num_bytes(source.read(name))
        for name, entry in facts.tensors.items()
    )
    assert facts.weight_bytes(weights, "cpu") == held


def test_the_cache_has_the_dtype_of_activations(tmp_path: Path) -> None:
    facts = read_facts(save_stored(tmp_path / "model", WeightFormat.INT4))
    on_cpu = facts.cache_bytes("int4", "cpu", 10)
    assert on_cpu == facts.cache_bytes("bfloat16", "cpu", 10)
    assert on_cpu == 2 * facts.cache_bytes("auto", "cuda", 10)
