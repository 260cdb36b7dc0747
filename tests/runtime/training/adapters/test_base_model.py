"""Training reads a model as generation does, or not at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parallel.group import SoloGroup
from runtime.errors import ConfigError
from runtime.models.weights import load_decoder
from runtime.training.adapters.base_model import load_model, load_shapes
from tests.support.tiny_transformer import CPU, score, tiny_model, tokens

PROMPT = tokens(40)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tiny_model().reference.save_pretrained(tmp_path)
    return tmp_path


def edit_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_parameters": None, "rope_theta": 500.0},
        {"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    ],
)
def test_training_and_generation_compute_the_same(
    changes: dict[str, object], checkpoint: Path
) -> None:
    edit_config(checkpoint, **changes)
    decoder = load_decoder(checkpoint, SoloGroup(), weights="float32", device=CPU)
    with torch.inference_mode():
        expected = load_model(checkpoint)(torch.tensor([PROMPT])).logits[0]
    torch.testing.assert_close(score(decoder, PROMPT), expected, atol=1e-4, rtol=0)


def test_what_generation_rejects_is_not_trained(checkpoint: Path) -> None:
    edit_config(checkpoint, attn_logit_softcapping=50.0)
    for load in (load_model, load_shapes):
        with pytest.raises(ConfigError, match=r"config.json: attn_logit_softcapping is 50.0"):
            load(checkpoint)


def test_a_tensor_that_nothing_reads_is_rejected(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    save_file(load_file(file) | {"model.extra.weight": torch.ones(1)}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"has the tensor model.extra.weight"):
        load_model(checkpoint)
