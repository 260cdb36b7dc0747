"""Ray shell of the transformers baseline."""

import os

from runtime.baselines.baseline_run import BaselineRun
from runtime.baselines.transformers_baseline import TransformersBaseline


class BaselineActor:
    """Runs transformers' `generate` in a process of its own."""

    def __init__(self, directory: str, weights: str, device: str, num_threads: int) -> None:
        self._baseline = TransformersBaseline(directory, weights, device, num_threads)

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def generate(
        self, prompts: list[tuple[int, ...]], max_tokens: int, num_lookup: int | None
    ) -> BaselineRun:
        """Generate for every prompt; blocks."""
        return self._baseline.generate(prompts, max_tokens, num_lookup)

    def logits_after(
        self, prefix: tuple[int, ...], token_ids: tuple[int, ...]
    ) -> tuple[float, ...]:
        """Return the logits of some tokens after a prefix; blocks."""
        return self._baseline.logits_after(prefix, token_ids)
