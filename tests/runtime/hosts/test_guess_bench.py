"""Guesses of a tiny drafter, against its rows and the target's tokens read one by one."""

from dataclasses import replace

import numpy as np
import pytest

from parallel.decoding.types import SamplingParams
from runtime.hosts.guess_bench import NUM_OUTCOMES, GuessBench, GuessFigures
from runtime.hosts.rank_settings import ModelSettings
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import tokens

NUM_TOKENS = 24
SAMPLINGS = [SamplingParams(), SamplingParams(temperature=1.0, seed=3)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    directory = save_tiny_checkpoint(tmp_path_factory.mktemp("guesses") / "model")
    return ModelSettings(
        role="target", directory=str(directory), cache_tokens=512, shares_prefixes=False
    )


def measured(
    target: ModelSettings, layers: tuple[int, ...] | None, sampling: SamplingParams
) -> GuessFigures:
    drafter = replace(target, role="drafter", layers=layers)
    bench = GuessBench(target, drafter, draft_length=4)
    found = GuessFigures()
    for seed in range(3):
        found.add(bench.measure(tokens(7 + 5 * seed, seed=seed), sampling, NUM_TOKENS))
    return found


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_drafter_that_is_the_target_guesses_everything(
    target: ModelSettings, sampling: SamplingParams
) -> None:
    found = measured(target, None, sampling)
    assert found.num_places == 3 * NUM_TOKENS
    assert (found.perturbed == found.num_places).all()
    assert found.without_replacement[0] > 0.9 * found.num_places  # drawn from the best 64 of 101
    assert found.num_rejections == 0
    assert (found.hits == found.num_verdicts).all()
    # The first verdict of each output commits one token, and then each commits four.
    assert found.num_verdicts == 3 * (1 + (NUM_TOKENS - 1 - 1) // 4)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_worse_drafter_guesses_some_of_it(
    target: ModelSettings, sampling: SamplingParams
) -> None:
    found = measured(target, (0,), sampling)
    for order in (found.perturbed, found.by_probability, found.without_replacement):
        assert 0 < order[0] < found.num_places
        assert (np.diff(order) >= 0).all()
    assert found.num_rejections > 0
    assert 0 < found.hits[0] <= found.num_verdicts - found.num_rejections
    assert found.recovered[0] == 0
    assert 0 < found.recovered[NUM_OUTCOMES - 1] <= found.num_rejections
    assert (np.diff(found.hits) >= 0).all()


def test_figures_come_back_as_they_were_written(target: ModelSettings) -> None:
    found = measured(target, (0,), SAMPLINGS[0])
    again = GuessFigures.from_json(found.to_json())
    assert again.to_json() == found.to_json()
