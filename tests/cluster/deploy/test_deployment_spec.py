"""A plan derives from its drafter what is started, reserved and run in the leader's process."""

from dataclasses import replace

import pytest

from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.placement.placement import Need
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.engine.engine_limits import EngineConfig
from runtime.hosts.drafter_spec import (
    DrafterSpec,
    InlineModelDrafterSpec,
    LookupDrafterSpec,
    ModelDrafterSpec,
    NgramDrafterSpec,
    NoDrafterSpec,
)
from runtime.hosts.rank_settings import LeaderSettings, ModelSettings

MODEL = ModelSettings(role="drafter", directory="drafter", device="cuda")
SPEC = DeploymentSpec(
    target=ModelSettings(role="target", directory="target"),
    tp=2,
    leader=LeaderSettings(
        limits=EngineConfig(vocab_size=64, max_positions=64, max_batch=16), draft_wait_s=1.0
    ),
    drafter_bytes=7,
)


@pytest.mark.parametrize(
    ("drafter", "need"),
    [
        (ModelDrafterSpec(MODEL, 3), Need(role="drafter", size=3, gpus=1.0, memory=7)),
        (NgramDrafterSpec(100), Need(role="drafter", size=1)),
    ],
)
def test_drafters_with_ranks_reserve_for_each_of_them(drafter: DrafterSpec, need: Need) -> None:
    spec = replace(SPEC, drafter=drafter, num_drafters=2)
    assert spec.drafter_need == need
    assert spec.num_actors == 2 + 2 * need.size
    assert spec.ranked_drafter is drafter
    assert not spec.has_inline_drafter
    assert spec.target_only.num_actors == 2


@pytest.mark.parametrize(
    "drafter",
    [NoDrafterSpec(), LookupDrafterSpec(LookupSettings()), InlineModelDrafterSpec(MODEL)],
)
def test_drafters_in_the_leader_need_no_actor(drafter: DrafterSpec) -> None:
    spec = replace(SPEC, drafter=drafter)
    assert spec.drafter_need is None
    assert spec.num_actors == 2
    assert spec.ranked_drafter is None
    assert spec.inline_drafter is drafter
    assert spec.has_inline_drafter == (drafter != NoDrafterSpec())
    assert spec.target_only == SPEC
