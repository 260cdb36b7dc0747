"""What a drafter is named by reaches processes that start elsewhere."""

from pathlib import Path

import pytest

from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import plan_drafter
from cluster.deploy.planning import plan_deployment, plan_target
from cluster.options.model_options import ModelOptions
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
        "runtime.drafters.store_lookup.check_store", lambda path, _: checked.append(path)
    )
    monkeypatch.chdir(tiny.parent)
    options = ModelOptions(target="model", drafter=drafter)
    target = plan_target(options)
    choice = plan_drafter(options, target, NOWHERE)
    spec = plan_deployment(options, target, choice, cache_tokens=64, stops=False)
    store = tiny.parent / "my-store"
    assert checked == [store]
    inline = spec.leader.inline_drafter
    lookups = inline.lookups if inline is not None else spec.leader.lookup
    assert lookups is not None
    assert f"store={store}" in str(lookups)
    assert spec.target.directory == str(tiny)
    assert spec.target.known == (), "a directory is no name that another node could look for"
    assert choice.name == drafter
