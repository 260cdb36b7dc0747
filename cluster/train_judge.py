"""What a fine-tuning job shows and measures, whatever its method."""

from collections.abc import Callable
from typing import Protocol

from rich.console import Console

from parallel.training.adamw import Vector
from runtime.text import Tokenizer
from runtime.training.data import Example, Sample, render, tokenize

_NOTES = Console(stderr=True, highlight=False)
_SHOWN = 2
_EVAL_BATCH = 8


class Measure(Protocol):
    """What evaluates weights."""

    def correct(
        self, parameters: Vector, batches: list[tuple[list[list[Sample]], list[int]]]
    ) -> int:
        """Return for how many groups of alternatives the right one is the likeliest."""
        ...

    def mean_loss(self, parameters: Vector, batches: list[list[Sample]]) -> float:
        """Return the mean loss over the batches' learnt tokens."""
        ...


class Judge:
    """Measures on the evaluation file: rewards, accuracy if there are choices, else the loss."""

    def __init__(
        self,
        tests: list[Example],
        tokenizer: Tokenizer,
        max_length: int,
        measure: Measure,
        *,
        reward: Callable[[Vector], float] | None = None,
    ) -> None:
        self._measure = measure
        self._reward = reward
        self._has_choices = bool(tests) and all(test.choices for test in tests)
        self._right = [test.choices.index(test.completion) for test in tests if self._has_choices]
        self._groups = [
            [
                tokenize(Example(test.prompt, choice, test.choices), tokenizer, max_length)
                for choice in test.choices
            ]
            for test in tests
        ]
        self._samples = [tokenize(test, tokenizer, max_length) for test in tests]

    @property
    def has_tests(self) -> bool:
        """Whether there is anything to measure on."""
        return bool(self._samples)

    def __call__(self, parameters: Vector) -> dict[str, float]:
        """Return what the weights reach, by its name."""
        if not self._samples:
            return {}
        if self._reward is not None:
            return {"reward": round(self._reward(parameters), 4)}
        if self._has_choices:
            num = len(self._groups)
            parts = [slice(i, i + _EVAL_BATCH) for i in range(0, num, _EVAL_BATCH)]
            batches = [(self._groups[part], self._right[part]) for part in parts]
            return {"accuracy": round(self._measure.correct(parameters, batches) / num, 4)}
        runs = [
            self._samples[i : i + _EVAL_BATCH] for i in range(0, len(self._samples), _EVAL_BATCH)
        ]
        return {"eval_loss": round(self._measure.mean_loss(parameters, runs), 4)}


def show_samples(examples: list[Example], samples: list[Sample], tokenizer: Tokenizer) -> None:
    """Print the first samples as they are learnt, what is learnt in brackets."""
    for example, sample in list(zip(examples, samples, strict=False))[:_SHOWN]:
        _NOTES.print(f"sample: {render(example, sample, tokenizer)}", markup=False)


def figures(metrics: dict[str, float]) -> str:
    """Return what a user wants to read of a line of metrics."""
    names = ("step", "loss", "eval_loss", "accuracy", "reward")
    return ", ".join(f"{name} {metrics[name]:g}" for name in names if name in metrics)
