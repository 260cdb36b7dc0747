"""The evaluation of a round: scalars of a worker's directions, from losses or rewards."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from parallel.training.shared_seed.directions import Direction
from runtime.models.tokenizer import Tokenizer
from runtime.training.job.shared_seed_settings import Terms
from runtime.training.samples import Prompt
from runtime.training.shared_seed.estimate import Estimate, one_sided, two_sided
from runtime.training.shared_seed.member import Member
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.rewards import Judge
from runtime.training.training_data import Sample


class RoundEvaluation(Protocol):
    """Computes the scalars of a machine in a round."""

    def __call__(self, member: Member) -> Estimate:
        """Return the scalars of the machine's directions, at its replica's weights."""
        ...


class LossWork:
    """Scalars from differences of losses."""

    def __init__(
        self, model: PointsModel, samples: Sequence[Sample], terms: Terms, *, seed: int, eps: float
    ) -> None:
        self._model = model
        self._samples = samples
        self._terms = terms
        self._seed = seed
        self._eps = eps

    def __call__(self, member: Member) -> Estimate:
        """Return the scalars of the machine's directions, at its replica's weights."""
        terms, theta = self._terms, member.replica.theta
        directions = member.directions(terms.directions)
        batches = [self._batch(member, k) for k in range(len(directions))]
        if terms.sides == 1:
            return one_sided(
                self._model, theta, directions, batches[0], eps=self._eps, rows=terms.rows
            )
        return two_sided(self._model, theta, directions, batches, eps=self._eps, rows=terms.rows)

    def _batch(self, member: Member, sample: int) -> list[Sample]:
        indices = draw(self._seed, member, sample, len(self._samples), self._terms.batch)
        return [self._samples[index] for index in indices]


class RewardWork:
    """Scalars from differences of the rewards of answers (evolution strategies)."""

    def __init__(
        self,
        model: PointsModel,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        judge: Judge,
        terms: Terms,
        *,
        seed: int,
        eps: float,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._judge = judge
        self._terms = terms
        self._seed = seed
        self._eps = eps

    def __call__(self, member: Member) -> Estimate:
        """Return the scalars of the machine's directions; lower is better, as with losses."""
        directions = member.directions(self._terms.directions)
        theta = member.replica.theta
        found, rewards, rows = [], [], 0
        for sample, direction in enumerate(directions):
            indices = draw(self._seed, member, sample, len(self._prompts), self._terms.batch)
            up, down = self._rewards(theta, direction, [self._prompts[i] for i in indices])
            found.append((down - up) / (2 * self._eps))
            rewards += [up, down]
            rows += 2 * len(indices)
        return Estimate(found, -sum(rewards) / len(rewards), rows)

    def _rewards(
        self, theta: Tensor, direction: Direction, some: Sequence[Prompt]
    ) -> tuple[float, float]:
        """Return the mean rewards of both sides."""
        answers = self._model.answers(
            theta,
            [direction, direction],
            [self._eps, -self._eps],
            [prompt.token_ids for prompt in some],
            self._tokenizer,
            self._terms.max_answer,
        )
        prompts = [prompt.text for prompt in some] * 2
        scores = self._judge(prompts, answers)
        return float(np.mean(scores[: len(some)])), float(np.mean(scores[len(some) :]))


def draw(seed: int, member: Member, sample: int, num_samples: int, batch: int) -> list[int]:
    """Return the indices of a direction's samples: a function of run, machine, round and sample."""
    rng = np.random.default_rng((seed, member.machine, member.round, sample))
    indices: list[int] = rng.choice(num_samples, batch, replace=batch > num_samples).tolist()
    return indices
