"""A drafter's model is changed where it has one, and nothing else is."""

from dataclasses import replace

import pytest

from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.hosts.drafter_spec import (
    DrafterSpec,
    InlineModelDrafterSpec,
    LookupDrafterSpec,
    ModelDrafterSpec,
    NgramDrafterSpec,
    NoDrafterSpec,
    model_of,
    with_model,
)
from runtime.hosts.rank_settings import ModelSettings

MODEL = ModelSettings(role="drafter", directory="drafter")


def more_threads(model: ModelSettings) -> ModelSettings:
    return replace(model, num_threads=model.num_threads + 3)


@pytest.mark.parametrize("drafter", [ModelDrafterSpec(MODEL, 2), InlineModelDrafterSpec(MODEL)])
def test_a_model_is_changed_where_it_runs(drafter: DrafterSpec) -> None:
    changed = with_model(drafter, more_threads)
    assert model_of(changed) == more_threads(MODEL)
    assert (type(changed), changed.num_ranks) == (type(drafter), drafter.num_ranks)


@pytest.mark.parametrize(
    "drafter", [NoDrafterSpec(), LookupDrafterSpec(LookupSettings()), NgramDrafterSpec(9)]
)
def test_a_drafter_without_a_model_stays_as_it_is(drafter: DrafterSpec) -> None:
    assert model_of(drafter) is None
    assert with_model(drafter, more_threads) is drafter
