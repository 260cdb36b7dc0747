"""Ray shell of the transformers baseline."""

from runtime.node.baseline import BaselineRun, TransformersBaseline


class BaselineActor:
    """Runs transformers' `generate` in a process of its own."""

    def __init__(self, directory: str, weights: str, device: str, num_threads: int) -> None:
        self._baseline = TransformersBaseline(directory, weights, device, num_threads)

    def generate(self, prompts: list[tuple[int, ...]], max_tokens: int, name: str) -> BaselineRun:
        """Generate for every prompt; blocks."""
        return self._baseline.generate(prompts, max_tokens, name)
