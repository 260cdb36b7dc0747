"""What a checkpoint needs, before any weight is read."""

from pathlib import Path

import pytest

from runtime.models.model_facts import read_facts
from tests.support.tiny_transformer import tiny_model


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_have_the_bytes_of_all_parameters(
    kind: str, tied: bool, tmp_path: Path
) -> None:
    reference = tiny_model(kind, tie_word_embeddings=tied).reference
    reference.save_pretrained(tmp_path)
    table = reference.model.embed_tokens.weight.numel() if tied else 0  # held for look-up and head
    facts = read_facts(tmp_path)
    assert facts.weight_bytes("float32") == 4 * (reference.num_parameters() + table)
    assert facts.weight_bytes("bfloat16") == 2 * (reference.num_parameters() + table)


def test_layers_that_are_left_out_need_no_memory(tmp_path: Path) -> None:
    reference = tiny_model().reference
    reference.save_pretrained(tmp_path)
    layer = sum(p.numel() for p in reference.model.layers[1].parameters())
    facts = read_facts(tmp_path)
    assert facts.weight_bytes("float32") - facts.weight_bytes("float32", (0, 2)) == 4 * layer
