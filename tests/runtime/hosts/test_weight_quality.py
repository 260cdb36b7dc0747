"""Readings of a tiny model, against transformers' scores of the same texts."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from runtime.hosts.weight_quality import Reading, WeightQuality
from runtime.models.scored_texts import ScoredText
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import tokens

TEXTS = [  # shorter and longer than a chunk, and with scored tokens that start in the second
    ScoredText(tokens(150, seed=1), 5),
    ScoredText(tokens(20, seed=2), 1),
    ScoredText(tokens(200, seed=3), 90),
    ScoredText(tokens(65, seed=4), 64),
]


def transformers_logits(directory: Path, text: ScoredText) -> torch.Tensor:
    """Return the logits before the scored tokens."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([text.token_ids])).logits[0]
    return logits[text.num_given - 1 : -1].double()


def rounded_copy(directory: Path, copy: Path) -> Path:
    """Copy a checkpoint with its matrices rounded to bfloat16."""
    shutil.copytree(directory, copy)
    found = load_file(copy / "model.safetensors")
    rounded = {n: t.bfloat16().float() if t.dim() == 2 else t for n, t in found.items()}
    save_file(rounded, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_perplexity_agreement_and_divergence_are_those_of_transformers(tmp_path: Path) -> None:
    directory = save_tiny_checkpoint(tmp_path / "model")
    rounded = rounded_copy(directory, tmp_path / "rounded")
    reference = Reading(directory, "float32")
    others = {"same": reference, "rounded": Reading(rounded, "float32")}
    quality = WeightQuality(reference, others, num_threads=1, max_tokens=200)
    for text in TEXTS:
        found = quality.compare(text)
        same, coarse = found["same"], found["rounded"]
        assert same.num_tokens == coarse.num_tokens == text.num_scored
        exact, far = transformers_logits(directory, text), transformers_logits(rounded, text)
        scored = torch.tensor(text.token_ids[text.num_given :])
        assert same.perplexity == pytest.approx(float(F.cross_entropy(exact, scored).exp()), 1e-5)
        assert coarse.perplexity == pytest.approx(float(F.cross_entropy(far, scored).exp()), 1e-5)
        kl = F.kl_div(
            far.log_softmax(-1), exact.log_softmax(-1), reduction="batchmean", log_target=True
        )
        assert coarse.mean_kl == pytest.approx(float(kl), rel=1e-2)
        agreed = (far.argmax(-1) == exact.argmax(-1)).double().mean()
        assert coarse.agreement == pytest.approx(float(agreed))
        assert (same.mean_kl, same.perplexity_ratio, same.agreement) == (0.0, 1.0, 1.0)
