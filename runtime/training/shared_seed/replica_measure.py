"""Evaluates a replica's weights on samples, in one process."""

import math
from collections.abc import Sequence

import torch

from parallel.training.adamw import Vector
from runtime.models.tokenizer import Tokenizer
from runtime.training.samples import Prompt
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.rewards import Judge
from runtime.training.training_data import Sample

_AT_ONCE = 8


class LocalMeasure:
    """Accuracies, losses and rewards at given weights."""

    def __init__(self, model: PointsModel) -> None:
        self._model = model

    def correct(
        self, parameters: Vector, batches: list[tuple[list[list[Sample]], list[int]]]
    ) -> float:
        """Return for how many groups of alternatives the right one is the likeliest, or NaN."""
        theta = torch.from_numpy(parameters)
        hits = 0.0
        for groups, right in batches:
            for scores, answer in zip(self._scores(theta, groups), right, strict=True):
                best = max(range(len(scores)), key=scores.__getitem__)
                hits += best == answer if all(map(math.isfinite, scores)) else math.nan
        return hits

    def _scores(self, theta: torch.Tensor, groups: list[list[Sample]]) -> list[list[float]]:
        """Return each alternative's log probability; one-token ones share their prompt's row."""
        flat = [sample for group in groups for sample in group]
        if all(sample.num_loss_tokens == 1 for sample in flat):
            ends = [[sample.token_ids[-1] for sample in group] for group in groups]
            return self._model.choice_scores(theta, [group[0] for group in groups], ends)
        scores = iter(self._model.log_likelihoods(theta, flat))
        return [[next(scores) for _ in group] for group in groups]

    def mean_loss(self, parameters: Vector, batches: list[list[Sample]]) -> float:
        """Return the mean loss over the batches' tokens in the loss."""
        theta = torch.from_numpy(parameters)
        total, num = 0.0, 0
        for batch in batches:
            total -= sum(self._model.log_likelihoods(theta, batch))
            num += sum(sample.num_loss_tokens for sample in batch)
        return total / max(num, 1)

    def mean_reward(
        self,
        parameters: Vector,
        prompts: Sequence[Prompt],
        tokenizer: Tokenizer,
        judge: Judge,
        max_answer: int,
    ) -> float:
        """Return the mean reward of greedy answers to prompts."""
        theta = torch.from_numpy(parameters)
        total = 0.0
        for first in range(0, len(prompts), _AT_ONCE):
            some = prompts[first : first + _AT_ONCE]
            tokens = [prompt.token_ids for prompt in some]
            answers = self._model.answers_at(theta, tokens, tokenizer, max_answer)
            total += sum(judge([prompt.text for prompt in some], answers))
        return total / len(prompts)
