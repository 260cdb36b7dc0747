"""The search finds layers that can be left out, and names them as they are read."""

import pytest

from cluster.draft.draft_skip import name_layers
from parallel.drafting.layer_skip import search_layers
from runtime.models.checkpoint import parse_layers

USELESS = {3, 4, 5, 6, 8}


def agreement(kept: tuple[int, ...]) -> float:
    """Every layer that does something costs a tenth when it is left out."""
    missing = set(range(12)) - set(kept) - USELESS
    return max(0.0, 0.98 - 0.1 * len(missing))


def test_useless_layers_are_found() -> None:
    trials = list(search_layers(12, agreement, fixed_cost=0.1, num_trials=300, seed=1))
    best = max(trials, key=lambda trial: trial.speedup)
    assert not USELESS & set(best.kept)
    assert best.agreement == agreement(best.kept)
    assert best.cost == pytest.approx(0.1 + 0.9 * len(best.kept) / 12)
    assert best.speedup > max(trial.speedup for trial in trials[:4])
    kept = [trial.kept for trial in trials]
    assert len(set(kept)) == len(kept)
    assert all({0, 11} <= set(layers) for layers in kept)


def test_a_small_model_runs_out_of_sets() -> None:
    trials = list(search_layers(4, lambda _: 0.5, fixed_cost=0.2, num_trials=50, seed=0))
    assert len(trials) <= 4


def test_a_model_without_inner_layers_is_rejected() -> None:
    with pytest.raises(ValueError, match="has none to leave out"):
        next(search_layers(2, lambda _: 1.0, fixed_cost=0.0, num_trials=1, seed=0))


@pytest.mark.parametrize("layers", [(0,), (0, 1, 2, 5), (0, 2, 4), (1, 2, 7, 8, 9)])
def test_layers_are_named_as_they_are_read(layers: tuple[int, ...]) -> None:
    assert parse_layers(name_layers(layers), 10) == layers
