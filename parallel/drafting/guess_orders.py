"""How many guesses of a drafter it takes to hold the target's token, by the order of the guesses.

The orders: by log-probability plus the target's own noise; the token drawn so, and then by
probability; and independent draws without replacement under recursive rejection (arXiv 2402.14160).
"""

from dataclasses import dataclass

import numpy as np

from parallel.decoding.rng import Floats, Ints, Purpose, uniforms_at
from parallel.decoding.sampling import distribution, ranked, sample, truncate
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams, SparseProbs
from parallel.decoding.verify import acceptance_test

_SUPPORT = 64
"""Tokens that independent draws are made from, as those of drafters are."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GuessChances:
    """How likely the target's token is among the first 1, 2, ... guesses at a place; each [num]."""

    perturbed: Floats
    """By log-probability plus the target's own noise; 0 or 1."""
    by_probability: Floats
    """The first as above, and then by probability; 0 or 1."""
    without_replacement: Floats
    """Independent draws without replacement, each tested by rejection; the mean over the tests."""


def guess_chances(
    target: ScoreRow,
    drafter: ScoreRow,
    params: SamplingParams,
    key: RngKey,
    position: int,
    *,
    num: int,
) -> GuessChances:
    """Return the chances of each order's first `num` guesses at a place.

    Greedy, all orders are that of the logits.

    Args:
        target: logits of all tokens.
        drafter: logits of the tokens that it scores.
        params: how both are sampled; without penalties.
        key: names the request's noise.
        position: index of the token in the output.
        num: guesses.
    """
    token = sample(target, params, key, position)
    order = [each.token for each in ranked(drafter, params, key, position, num=num)]
    perturbed = _among(order, token, num)
    if params.is_greedy:
        return GuessChances(
            perturbed=perturbed, by_probability=perturbed, without_replacement=perturbed
        )
    likeliest = distribution(drafter, params)
    best = likeliest.ids[np.argsort(-likeliest.probs, kind="stable")[: num + 1]].tolist()
    plain = [order[0], *(each for each in best if each != order[0])]
    return GuessChances(
        perturbed=perturbed,
        by_probability=_among(plain, token, num),
        without_replacement=_rejected_draws(target, drafter, params, key, position, num),
    )


def _among(order: list[int], token: int, num: int) -> Floats:
    """Return for 1, 2, ... num whether a token is among so many first ones of an order."""
    found = np.zeros(num)
    if token in order[:num]:
        found[order.index(token) :] = 1.0
    return found


def _rejected_draws(
    target: ScoreRow,
    drafter: ScoreRow,
    params: SamplingParams,
    key: RngKey,
    position: int,
    num: int,
) -> Floats:
    """Return the chance that one of the first draws without replacement passes its test."""
    left = distribution(target, params)
    drawn_from = truncate(distribution(drafter, params), _SUPPORT)
    ids: Ints = drawn_from.ids
    noise = -np.log(-np.log(uniforms_at(key, position, Purpose.DRAFT, ids)))
    order = np.argsort(-(np.log(drawn_from.probs) + noise), kind="stable")[:num]
    remaining = drawn_from.probs.copy()
    found, failed = np.ones(num), 1.0
    for rank, at in enumerate(order):
        there = remaining > 0
        probs = remaining[there] / remaining[there].sum()
        given = SparseProbs(ids=tuple(ids[there].tolist()), probs=tuple(probs.tolist()))
        test = acceptance_test(left, given, int(ids[at]))
        if test.residual is None:
            found[rank:] = 1.0
            return found
        failed *= 1 - test.probability
        found[rank:] = 1 - failed
        left, remaining[at] = test.residual, 0.0
    return found
