"""Exactly known distributions, and drafts from them, for tests of verifiers."""

from collections.abc import Sequence

import numpy as np
import torch

from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.sampling import Distribution
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import (
    DraftTree,
    NodeKind,
    RngKey,
    SamplingParams,
    SparseProbs,
)

TOY3 = ((0.6, 0.3, 0.1), (0.3, 0.5, 0.2))  # target, drafter
TOY4 = ((0.35, 0.30, 0.20, 0.15), (0.20, 0.15, 0.45, 0.20))
SAMPLED = SamplingParams(temperature=1.0)
IID, POINT = NodeKind.IID, NodeKind.POINT


def key(request: int) -> RngKey:
    return RngKey(seed=1, request=request)


def row(probs: Sequence[float]) -> ScoreRow:
    return ScoreRow(torch.tensor(probs, dtype=torch.float64).log().float(), None)


def exact(probs: Sequence[float]) -> Distribution:
    ids = [i for i, p in enumerate(probs) if p > 0]
    return Distribution(ids=np.array(ids), probs=np.array([probs[i] for i in ids]))


def sparse(probs: Sequence[float]) -> SparseProbs:
    return SparseProbs(ids=tuple(range(len(probs))), probs=tuple(probs))


def siblings(token_ids: Sequence[int], draft_probs: Sequence[float]) -> DraftTree:
    num = len(token_ids)
    return DraftTree(
        token_ids=tuple(token_ids),
        parents=(-1,) * num,
        kinds=(IID,) * num,
        draft_probs=(sparse(draft_probs),) * num,
    )


def total_variation(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2


def drawn_tree(request: int) -> DraftTree:
    """Draw two levels of two siblings each from the drafter's distribution."""
    drafter = np.array(TOY3[1])
    tokens: list[int] = []
    parents: list[int] = []
    for parent in (-1, 0, 1):
        for rank in (0, 1):
            number = uniform(key(request), parent + 1, Purpose.DRAFT, index=rank)
            tokens.append(pick(drafter, number))
            parents.append(parent)
    return DraftTree(
        token_ids=tuple(tokens),
        parents=tuple(parents),
        kinds=(IID,) * 6,
        draft_probs=(sparse(TOY3[1]),) * 6,
    )


def pick(weights: np.ndarray, number: float) -> int:
    """Return the index that a number in [0, 1) draws by the weights."""
    return int(np.searchsorted(np.cumsum(weights), number * weights.sum(), side="right"))
