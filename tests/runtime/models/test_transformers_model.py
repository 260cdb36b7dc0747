"""transformers computes with the numbers of a checkpoint, or refuses it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from parallel.weights.stored_matrix import as_float
from parallel.weights.weight_format import WeightFormat
from runtime.models.transformers_model import load_transformers, transformers_config
from tests.support.stored_checkpoints import save_stored, stored_as, wide_model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("form", [None, *WeightFormat])
def test_matrices_have_the_numbers_that_are_stored(
    form: WeightFormat | None, tied: bool, tmp_path: Path
) -> None:
    model = wide_model(tie_word_embeddings=tied)
    directory = save_stored(tmp_path / "model", form, model)
    loaded = load_transformers(directory, torch.float32)
    found = loaded.state_dict()
    for name, tensor in model.reference.state_dict().items():
        expected = tensor if form is None else as_float(stored_as(tensor, form)).float()
        assert torch.equal(found[name], expected), name
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
    assert not hasattr(transformers_config(directory), "quantization_config")


def test_transformers_itself_does_not_load_integer_codes(tmp_path: Path) -> None:
    directory = save_stored(tmp_path / "model", WeightFormat.INT8)
    with pytest.raises(OSError, match=r"no file named .*model.safetensors"):
        AutoModelForCausalLM.from_pretrained(directory)
