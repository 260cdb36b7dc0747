"""What a drafter is named by reaches processes that start elsewhere."""

from pathlib import Path

import pytest

from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import plan_drafter
from cluster.deploy.target_plan import plan_target
from cluster.options.model_options import ModelOptions
from parallel.decoding.types import DecodeMode
from runtime.hosts.drafter_spec import InlineModelDrafterSpec, LookupDrafterSpec, model_of
from tests.support.tiny_checkpoint import save_tiny_checkpoint

NOWHERE = DrafterCapacity(nodes=())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.parametrize("drafter", ["lookup:ngram+store=my-store", "inline:model+store=my-store"])
def test_relative_names_are_those_of_the_drivers_directory(
    drafter: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(
        "runtime.drafters.lookups.store_lookup.check_store", lambda path, _: checked.append(path)
    )
    monkeypatch.chdir(tiny.parent)
    options = ModelOptions(target="model", drafter=drafter)
    target = plan_target(options)
    choice = plan_drafter(options, target, NOWHERE)
    spec = plan_deployment(options, target, choice, cache_tokens=64, stops=False)
    store = tiny.parent / "my-store"
    assert checked == [store]
    match spec.drafter:
        case InlineModelDrafterSpec(model):
            lookups = model.lookups
        case LookupDrafterSpec() as look_ups:
            lookups = look_ups.lookups
        case other:
            raise AssertionError(other)
    assert f"store={store}" in str(lookups)
    assert spec.target.directory == str(tiny)
    assert spec.target.known == (), "a directory is no name that another node could look for"
    assert choice.name == drafter


def test_a_drafter_has_a_device_of_its_own(tiny: Path) -> None:
    options = ModelOptions(
        target=str(tiny),
        drafter="target:layers=0-1",
        drafter_tp=1,
        device="cuda",
        drafter_device="cpu",
        ray_address="auto",
    )
    target = plan_target(options)
    choice = plan_drafter(options, target, NOWHERE)
    spec = plan_deployment(options, target, choice, cache_tokens=64, stops=False)
    model = model_of(spec.drafter)
    assert model is not None
    assert (spec.target.device, model.device) == ("cuda", "cpu")
    need = spec.drafter_need
    assert need is not None
    assert (spec.target_need.gpus, need.gpus) == (1.0, 0.0)
    assert (spec.target_need.memory, need.memory > 0) == (0, True)


@pytest.mark.parametrize(("prefix", "has_thread"), [("inline", False), ("beside", True)])
def test_a_model_beside_the_target_overlaps_its_forwards(
    tiny: Path, prefix: str, has_thread: bool
) -> None:
    options = ModelOptions(target=str(tiny), drafter=f"{prefix}:target:layers=0-1")
    choice = plan_drafter(options, plan_target(options), NOWHERE)
    assert isinstance(choice.spec, InlineModelDrafterSpec)
    assert choice.spec.has_thread == has_thread
    assert choice.best_mode is (DecodeMode.AUTO if has_thread else DecodeMode.SPECULATIVE)
