"""Search the layers that a target keeps when it drafts for itself (SWIFT, arXiv 2410.06916).

A set of layers is scored by how often the cut model agrees with the whole one on text of the whole
one, and by what its steps cost. SWIFT alternates random search with Bayesian optimisation; here
the random steps start from the best set so far, which needs no model of the score.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from parallel.decoding.types import DecodeMode
from parallel.rounds.cost import throughput

_FIRST_SHARES = (0.5, 0.35, 0.65, 0.8)
_MOVES = 3  # most layers that one trial changes
_LONGEST_DRAFT = 8

Layers = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipTrial:
    """One set of layers, and what it is worth."""

    kept: Layers
    agreement: float
    """How often its best token is the whole model's: the acceptance rate of greedy drafts."""
    cost: float
    """Time of its step, as a share of a step of the whole model."""
    draft_length: int
    speedup: float
    """Predicted against plain decoding, drafting and verifying in turn with that draft length."""


def search_layers(
    num_layers: int,
    agreement: Callable[[Layers], float],
    *,
    fixed_cost: float,
    num_trials: int,
    seed: int,
) -> Iterator[SkipTrial]:
    """Yield trials; the best one so far is the caller's to keep.

    Args:
        num_layers: layers of the whole model.
        agreement: measures a set of layers; the first and the last layer are always in it.
        fixed_cost: share of a whole step that does not depend on the layers (embedding and head).
        num_trials: sets to try; each is tried once.
        seed: of the random steps.

    Raises:
        ValueError: the model has too few layers to leave any out.
    """
    if num_layers < 3:
        raise ValueError(f"a model of {num_layers} layers has none to leave out")
    rng = random.Random(seed)
    tried: set[Layers] = set()
    best: SkipTrial | None = None
    for number in range(num_trials):
        kept = _spread(num_layers, number) if number < len(_FIRST_SHARES) else None
        for _ in range(num_trials):  # a small model runs out of sets
            if kept is not None and kept not in tried:
                break
            assert best is not None, "the first set is always new"
            kept = _changed(best.kept, num_layers, rng)
        if kept is None or kept in tried:
            return
        tried.add(kept)
        cost = fixed_cost + (1 - fixed_cost) * len(kept) / num_layers
        trial = _trial(kept, agreement(kept), cost)
        if best is None or trial.speedup > best.speedup:
            best = trial
        yield trial


def _trial(kept: Layers, agreement: float, cost: float) -> SkipTrial:
    def speedup(length: int) -> float:
        return throughput(
            DecodeMode.SPECULATIVE,
            alpha=agreement,
            draft_length=length,
            target_s=lambda _: 1.0,
            draft_s=lambda steps: steps * cost,
        )

    length = max(range(1, _LONGEST_DRAFT + 1), key=speedup)
    return SkipTrial(
        kept=kept,
        agreement=agreement,
        cost=cost,
        draft_length=length,
        speedup=speedup(length),
    )


def _spread(num_layers: int, number: int) -> Layers:
    """Return a first guess: layers evenly spread, both ends among them."""
    size = max(2, round(_FIRST_SHARES[number] * num_layers))
    return tuple(sorted({round(i * (num_layers - 1) / (size - 1)) for i in range(size)}))


def _changed(kept: Layers, num_layers: int, rng: random.Random) -> Layers:
    """Return the set with a few of its inner layers taken or left."""
    chosen = set(kept)
    for layer in rng.sample(range(1, num_layers - 1), min(rng.randint(1, _MOVES), num_layers - 2)):
        chosen ^= {layer}
    return tuple(sorted(chosen))
