"""What a fine-tuning job prints and evaluates, with any method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rich.console import Console

from parallel.training.adamw import Vector
from runtime.models.tokenizer import Tokenizer
from runtime.training.samples import EvalSamples
from runtime.training.training_data import Sample, TextExample, render

_NOTES = Console(stderr=True, highlight=False)
_SHOWN = 2
_EVAL_BATCH = 8


class Measure(Protocol):
    """Evaluates weights on batches of samples."""

    def correct(
        self, parameters: Vector, batches: list[tuple[list[list[Sample]], list[int]]]
    ) -> float:
        """Return for how many groups of alternatives the right one is the likeliest."""
        ...

    def mean_loss(self, parameters: Vector, batches: list[list[Sample]]) -> float:
        """Return the mean loss over the batches' tokens in the loss."""
        ...


class Evaluator:
    """Evaluates on the evaluation file: rewards, accuracy if there are choices, else the loss."""

    def __init__(
        self,
        tests: EvalSamples,
        measure: Measure,
        *,
        learned: Sequence[Sample] = (),
        reward: Callable[[Vector], float] | None = None,
    ) -> None:
        """Evaluate with `measure` on the tests; `learned` are samples that are trained on."""
        self._tests = tests
        self._measure = measure
        self._learned = list(learned[:_EVAL_BATCH])
        self._reward = reward

    @property
    def has_tests(self) -> bool:
        """Whether there is an evaluation set."""
        return bool(self._tests.samples or self._tests.prompts)

    def loss_of_some(self, parameters: Vector) -> float:
        """Return the mean loss on a few samples that are trained on."""
        return self._measure.mean_loss(parameters, [self._learned])

    def __call__(self, parameters: Vector) -> dict[str, float]:
        """Return the metrics of the weights by name."""
        if not self.has_tests:
            return {}
        if self._reward is not None:
            return {"reward": round(self._reward(parameters), 4)}
        samples, groups = self._tests.samples, self._tests.groups
        parts = [slice(i, i + _EVAL_BATCH) for i in range(0, len(samples), _EVAL_BATCH)]
        if groups:
            batches = [(groups[part], self._tests.right[part]) for part in parts]
            hits = self._measure.correct(parameters, batches)
            return {"accuracy": round(hits / len(groups), 4)}
        runs = [samples[part] for part in parts]
        return {"eval_loss": round(self._measure.mean_loss(parameters, runs), 4)}


def show_samples(
    examples: Sequence[TextExample], samples: Sequence[Sample], tokenizer: Tokenizer
) -> None:
    """Print the first samples, with the learned part in brackets."""
    for example, sample in list(zip(examples, samples, strict=False))[:_SHOWN]:
        _NOTES.print(f"sample: {render(example, sample, tokenizer)}", markup=False)


def figures(metrics: Mapping[str, float | None]) -> str:
    """Return the metrics that a user reads, as text."""
    names = ("step", "loss", "eval_loss", "accuracy", "reward")
    found = {name: metrics[name] for name in names if metrics.get(name) is not None}
    return ", ".join(f"{name} {value:g}" for name, value in found.items())
