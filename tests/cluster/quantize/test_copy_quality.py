"""Texts are scored by a model and by its copy, as transformers scores them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from cluster.quantize.copy_quality import NotMeasured, measure_copy, read_texts
from parallel.model.score_quality import ScoreQuality
from parallel.weights.weight_format import WeightFormat
from runtime.models.quantized_copy import quantize_checkpoint
from runtime.models.transformers_model import load_transformers
from tests.support.tiny_checkpoint import save_tiny_checkpoint


def test_own_texts_are_scored_by_the_model_and_by_the_copy(tmp_path: Path) -> None:
    model = save_tiny_checkpoint(tmp_path / "model", hidden_size=288, intermediate_size=96)
    copy, file = tmp_path / "copy", tmp_path / "texts.jsonl"
    quantize_checkpoint(model, copy, WeightFormat.INT4)
    lines = [{"question": f"w{n} w2", "answer": f"w3 w{n} w5 w8"} for n in range(4)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = read_texts(model, file, limit=3)
    assert not isinstance(texts, NotMeasured)
    found = measure_copy(model, copy, texts, Console(quiet=True))
    assert isinstance(found, ScoreQuality)
    assert found.num_tokens == 12
    assert found.perplexity != pytest.approx(found.reference_perplexity, rel=1e-2)
    for perplexity, directory in ((found.reference_perplexity, model), (found.perplexity, copy)):
        reference = load_transformers(directory, torch.float32).eval()
        nll = sum(answer_nll(reference, (n, 2), (3, n, 5, 8)) for n in range(3))
        assert perplexity == pytest.approx(math.exp(nll / 12), rel=1e-3)


def answer_nll(reference: PreTrainedModel, question: Sequence[int], answer: Sequence[int]) -> float:
    with torch.inference_mode():
        logits = reference(torch.tensor([[*question, *answer]])).logits[0, len(question) - 1 : -1]
    return float(cross_entropy(logits, torch.tensor(answer), reduction="sum"))
