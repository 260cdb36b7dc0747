"""The baselines of benchmarks: transformers' own `generate`, one prompt at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig

from runtime.models.transformers_model import load_transformers
from runtime.weights.weight_choice import choose_weights

BASELINES = {"transformers": None, "transformers-lookup": 10}
"""Names, with the number of tokens that transformers' prompt lookup drafts; its guide uses 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRun:
    """Tokens that transformers generated, and the time it took."""

    token_ids: tuple[tuple[int, ...], ...]
    wall_s: float


class TransformersBaseline:
    """A model run by transformers, with the numbers, device and threads of the target."""

    def __init__(self, directory: str, weights: str, device: str, num_threads: int) -> None:
        self._num_threads = num_threads
        self._device = device
        # transformers has one dtype for weights and activations, the latter's of the target.
        dtype = choose_weights(weights, device).activations
        model = load_transformers(Path(directory), dtype)
        model.generation_config = GenerationConfig()  # without end tokens, penalties, forced tokens
        self._model = model.to(device).eval()

    def generate(
        self, prompts: Sequence[tuple[int, ...]], max_tokens: int, name: str
    ) -> BaselineRun:
        """Generate exactly `max_tokens` greedy tokens for each prompt; blocks.

        Args:
            prompts: their tokens.
            max_tokens: tokens for each.
            name: one of BASELINES.
        """
        torch.set_num_threads(self._num_threads)
        outputs: list[tuple[int, ...]] = []
        start_s = time.perf_counter()
        for prompt in prompts:
            ids = torch.tensor([prompt], device=self._device)
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=0,
                prompt_lookup_num_tokens=BASELINES[name],
            )
            outputs.append(tuple(output[0, len(prompt) :].tolist()))
        return BaselineRun(token_ids=tuple(outputs), wall_s=time.perf_counter() - start_s)
