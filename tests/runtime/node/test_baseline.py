"""The baselines of benchmarks generate greedily, past end tokens, on a tiny checkpoint."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from runtime.node.baseline import BASELINES, TransformersBaseline
from tests.support.tiny_checkpoint import save_tiny_checkpoint

PROMPTS = ((1, 50, 7), (9, 9, 9, 9))


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_takes_the_best_token_each_time(tmp_path: Path, name: str) -> None:
    directory = save_tiny_checkpoint(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    expected = []
    for prompt in PROMPTS:
        tokens = list(prompt)
        for _ in range(6):
            with torch.inference_mode():
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        expected.append(tuple(tokens[len(prompt) :]))
    baseline = TransformersBaseline(str(directory), "float32", "cpu", torch.get_num_threads())
    found = baseline.generate(PROMPTS, 6, name)
    assert found.token_ids == tuple(expected)
    assert found.wall_s > 0
