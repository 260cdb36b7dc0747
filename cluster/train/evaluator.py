"""What a fine-tuning job prints and evaluates, with any method."""

from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console

from parallel.training.adamw import Vector
from runtime.models.tokenizer import Tokenizer
from runtime.training.chunk_work import PreferenceSums
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
    """Evaluates on the evaluation file: rewards, preferences, choices, or else the loss."""

    def __init__(
        self,
        tests: EvalSamples,
        measure: Measure,
        *,
        learned: Sequence[Sample] = (),
        reward: Callable[[Vector], float] | None = None,
        preferences: Callable[[Vector, list[list[Sample]]], list[PreferenceSums]] | None = None,
    ) -> None:
        """Evaluate with `measure` on the tests.

        Args:
            tests: the evaluation set.
            measure: evaluates weights on it.
            learned: samples that are trained on.
            reward: returns the mean reward of weights, where answers are scored.
            preferences: measures preferences, where the tests are preferences.
        """
        self._tests = tests
        self._measure = measure
        self._learned = list(learned[:_EVAL_BATCH])
        self._reward = reward
        self._preferences = preferences

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
        if self._preferences is not None:
            return _preferred(self._preferences(parameters, runs))
        return {"eval_loss": round(self._measure.mean_loss(parameters, runs), 4)}


def _preferred(sums: Sequence[PreferenceSums]) -> dict[str, float]:
    num = sum(one.num_pairs for one in sums)
    return {
        "eval_loss": round(sum(one.loss for one in sums) / num, 4),
        "accuracy": round(sum(one.num_right for one in sums) / num, 4),
        "margin": round(sum(one.margin for one in sums) / num, 4),
    }


def show_samples(
    examples: Sequence[TextExample], samples: Sequence[Sample], tokenizer: Tokenizer
) -> None:
    """Print the first samples, with the learned part in brackets."""
    for example, sample in list(zip(examples, samples, strict=False))[:_SHOWN]:
        _NOTES.print(f"sample: {render(example, sample, tokenizer)}", markup=False)
