"""Threads, cache and memory of a run are planned for the target and all drafters together."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import NOTHING_DRAFTS, find_drafter
from cluster.deploy.target_plan import plan_target
from cluster.options.model_options import ModelOptions
from runtime.hosts.drafter_spec import InlineModelDrafterSpec, ModelDrafterSpec, model_of
from tests.support.tiny_checkpoint import save_tiny_checkpoint

NOWHERE = DrafterCapacity(nodes=())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def options(tiny: Path) -> ModelOptions:
    return ModelOptions(
        target=str(tiny), drafter=str(tiny), ray_address="10.0.0.1:6379", cache_tokens=64
    )


def test_each_drafter_has_its_ranks_and_its_memory(options: ModelOptions) -> None:
    target = plan_target(options)
    options = replace(options, drafters=3, drafter_tp=2, layer_parallel="off")
    drafter = find_drafter(options, target, NOWHERE)
    spec = plan_deployment(options, target, drafter, cache_tokens=32, stops=True)
    assert isinstance(spec.drafter, ModelDrafterSpec)
    assert (spec.drafter.num_ranks, spec.num_drafters, spec.num_actors) == (2, 3, 7)
    assert spec.drafter.model.cache_tokens == spec.target.cache_tokens == 64
    assert 0 < spec.drafter_bytes < spec.target_bytes
    assert spec.leader.tokenizer_directory == spec.target.directory


def test_a_drafters_cache_has_room_for_drafts_for_many_outcomes(options: ModelOptions) -> None:
    target = plan_target(options)
    options = replace(options, cache_tokens=None)
    drafter = find_drafter(options, target, NOWHERE)
    spec = plan_deployment(options, target, drafter, cache_tokens=64, stops=True)
    model = model_of(spec.drafter)
    assert model is not None
    assert spec.target.cache_tokens == 64
    assert model.cache_tokens >= 64 + 96 * options.max_batch  # twelve outcomes of eight tokens


def test_the_leader_reserves_for_a_drafter_in_its_process(options: ModelOptions) -> None:
    target = plan_target(options)
    alone = plan_deployment(options, target, NOTHING_DRAFTS, cache_tokens=64, stops=False)
    inline = replace(options, drafter=f"inline:{options.drafter}", drafters=1)
    drafter = find_drafter(inline, target, NOWHERE)
    spec = plan_deployment(inline, target, drafter, cache_tokens=64, stops=False)
    assert isinstance(spec.drafter, InlineModelDrafterSpec)
    assert spec.target_bytes == 2 * alone.target_bytes
    assert spec.drafter_bytes == 0
    assert spec.num_actors == 1


def test_cores_are_divided_among_the_ranks_of_all_drafters(
    options: ModelOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.placement.rank_needs.usable_cores", lambda: 8)
    local = replace(options, ray_address=None, drafters=3)
    target = plan_target(local)
    drafter = find_drafter(local, target, NOWHERE)
    spec = plan_deployment(local, target, drafter, cache_tokens=64, stops=False)
    model = model_of(spec.drafter)
    assert model is not None
    assert model.num_threads == spec.target.num_threads == 2


def test_memory_that_one_machine_lacks_is_rejected(
    options: ModelOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = replace(options, ray_address=None)
    target = plan_target(local)
    drafter = find_drafter(local, target, NOWHERE)
    held = list[int]()
    monkeypatch.setattr(
        "cluster.deploy.deployment_plan.check_fits",
        lambda weights, cache, _, cache_tokens: held.append(weights + cache + 0 * cache_tokens),
    )
    plan_deployment(local, target, NOTHING_DRAFTS, cache_tokens=64, stops=False)
    for drafters in (1, 2):
        several = replace(local, drafters=drafters)
        plan_deployment(several, target, drafter, cache_tokens=64, stops=False)
    assert held == [held[0], 2 * held[0], 3 * held[0]]
