"""Transformers' own `generate`, one prompt at a time."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from runtime.baselines.baseline_run import BaselineRun
from runtime.models.transformers_model import load_transformers
from runtime.weights.weight_choice import choose_weights


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
        self, prompts: Sequence[tuple[int, ...]], max_tokens: int, num_lookup: int | None
    ) -> BaselineRun:
        """Generate exactly `max_tokens` greedy tokens for each prompt; blocks.

        Args:
            prompts: their tokens.
            max_tokens: tokens for each.
            num_lookup: tokens that transformers' prompt lookup drafts; None is plain decoding.
        """
        torch.set_num_threads(self._num_threads)
        outputs: list[tuple[int, ...]] = []
        first_s: list[float] = []
        start_s = time.perf_counter()
        for prompt in prompts:
            ids = torch.tensor([prompt], device=self._device)
            watch = _FirstToken()
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=0,
                prompt_lookup_num_tokens=num_lookup,
                streamer=watch,
            )
            outputs.append(tuple(output[0, len(prompt) :].tolist()))
            first_s.append(watch.first_s)
        return BaselineRun(
            token_ids=tuple(outputs),
            first_s=tuple(first_s),
            wall_s=time.perf_counter() - start_s,
        )

    def logits_after(self, prefix: Sequence[int], token_ids: Sequence[int]) -> tuple[float, ...]:
        """Return the logits of some tokens after a prefix."""
        with torch.inference_mode():
            ids = torch.tensor([list(prefix)], device=self._device)
            logits = self._model(ids, use_cache=False).logits[0, -1].float()
        return tuple(float(logits[token]) for token in token_ids)


class _FirstToken:
    """A streamer that only notes when the first token arrives; `generate` sends it the prompt
    first."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._num_received = 0
        self.first_s = 0.0

    def put(self, _: Tensor) -> None:
        self._num_received += 1
        if self._num_received == 2:
            self.first_s = time.perf_counter() - self._start_s

    def end(self) -> None:
        """Do nothing; `generate` calls this at its end."""
