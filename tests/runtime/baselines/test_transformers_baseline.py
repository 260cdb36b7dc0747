"""The baselines of benchmarks generate greedily, past end tokens, on a tiny checkpoint."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from runtime.baselines.baseline_run import BASELINES
from runtime.baselines.transformers_baseline import TransformersBaseline
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
    found = baseline.generate(PROMPTS, 6, BASELINES[name])
    assert found.token_ids == tuple(expected)
    assert all(first_s > 0 for first_s in found.first_s)
    assert sum(found.first_s) < found.wall_s


def test_logits_of_chosen_tokens_are_the_models_own(tmp_path: Path) -> None:
    directory = save_tiny_checkpoint(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    baseline = TransformersBaseline(str(directory), "float32", "cpu", torch.get_num_threads())
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    found = baseline.logits_after(PROMPTS[0], (5, 70))
    assert found == pytest.approx((float(expected[5]), float(expected[70])))
