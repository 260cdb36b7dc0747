"""The scalars of a worker's directions: the slope of the loss along each one.

Two-sided differences are SPSA as in MeZO (Malladi et al., arXiv 2305.17333), one-sided ones share
the loss at the weights themselves, as in FZOO (arXiv 2506.09034).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from parallel.training.shared_seed.directions import Direction
from runtime.training.shared_seed.points import LossSum, PointsModel
from runtime.training.training_data import Sample


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimates of a worker in a round."""

    projected_grads: list[float]
    """One for each direction."""
    loss: float
    """Mean over the points."""
    num_rows: int
    """Sequences that went through the model."""


def two_sided(
    model: PointsModel,
    theta: Tensor,
    directions: Sequence[Direction],
    batches: Sequence[Sequence[Sample]],
    *,
    eps: float,
    rows: int,
) -> Estimate:
    """Return (L(theta + eps z) - L(theta - eps z)) / (2 eps) of each direction, on its own batch.

    Args:
        model: the model to evaluate.
        theta: the weights to perturb.
        directions: D of them.
        batches: one for each, all of one size.
        eps: distance of each side from the weights.
        rows: most sequences in one forward pass, if both sides of a sequence fit.
    """
    size = len(batches[0])
    at_once = max(1, rows // (2 * size))
    found: list[float] = []
    losses: list[LossSum] = []
    for first in range(0, len(directions), at_once):
        some = directions[first : first + at_once]
        both = [direction for direction in some for _ in range(2)]
        steps = [eps, -eps] * len(some)
        twice = [b for batch in batches[first : first + at_once] for b in (batch, batch)]
        sums = _in_parts(model, theta, both, steps, twice, max(1, rows // len(both)))
        losses += sums
        for plus, minus in zip(sums[::2], sums[1::2], strict=True):
            found.append((plus.total - minus.total) / plus.num / (2 * eps))
    return Estimate(found, _mean(losses), len(losses) * size)


def one_sided(
    model: PointsModel,
    theta: Tensor,
    directions: Sequence[Direction],
    batch: Sequence[Sample],
    *,
    eps: float,
    rows: int,
) -> Estimate:
    """Return (L(theta + eps z) - L(theta)) / eps of each direction, on one batch for all."""
    at_once = max(1, rows // len(batch))
    points = [(directions[0], 0.0), *((direction, eps) for direction in directions)]
    sums: list[LossSum] = []
    for first in range(0, len(points), at_once):
        some = points[first : first + at_once]
        there, steps = [d for d, _ in some], [step for _, step in some]
        part = max(1, rows // len(some))
        sums += _in_parts(model, theta, there, steps, [batch] * len(some), part)
    base, *others = sums
    found = [(other.total - base.total) / base.num / eps for other in others]
    return Estimate(found, base.total / base.num, len(sums) * len(batch))


def _in_parts(
    model: PointsModel,
    theta: Tensor,
    directions: Sequence[Direction],
    steps: Sequence[float],
    batches: Sequence[Sequence[Sample]],
    part: int,
) -> list[LossSum]:
    """Return each point's loss, in forward passes of `part` sequences of each batch."""
    totals = [LossSum(0.0, 0)] * len(batches)
    for first in range(0, len(batches[0]), part):
        some = [batch[first : first + part] for batch in batches]
        new = model.losses(theta, directions, steps, some)
        totals = [LossSum(a + c, b + d) for (a, b), (c, d) in zip(totals, new, strict=True)]
    return totals


def _mean(losses: Sequence[LossSum]) -> float:
    num = sum(loss.num for loss in losses)
    return math.fsum(loss.total for loss in losses) / max(num, 1)
