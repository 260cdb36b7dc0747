"""Free nodes and what was asked decide where a drafter works; the driver's cores never do."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import plan_drafter
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.options.model_options import ModelOptions
from cluster.options.place_options import PlaceOptions
from cluster.placement.cluster_nodes import this_machine
from cluster.placement.placement import Node
from parallel.decoding.types import DecodeMode
from runtime.errors import ConfigError
from runtime.hosts.drafter_spec import NgramDrafterSpec
from tests.support.tiny_checkpoint import save_tiny_checkpoint

ASKED = (PlaceOptions(drafter="near"), PlaceOptions(target="spread", drafter="far"))
OPTIONS = ModelOptions(target=None, drafter=None, ray_address="10.0.0.1:6379")


def node(name: str, cpus: float, *, gpus: float = 0, hindrance: str = "") -> Node:
    has = {"CPU": cpus, "GPU": gpus}
    return Node(node_id=name, address=name, free=has, total=has, labels={}, hindrance=hindrance)


def capacity(*nodes: Node, replicas: int = 1, max_drafters: int | None = None) -> DrafterCapacity:
    return DrafterCapacity(nodes=nodes, replicas=replicas, max_drafters=max_drafters)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def target(tiny: Path) -> PlannedModel:
    return plan_target(replace(OPTIONS, target=str(tiny)))


@pytest.fixture
def known(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the target a drafter that comes with the package."""
    monkeypatch.setattr("cluster.deploy.drafter_plan.shipped_drafter", lambda _: tiny)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("driver_cores", [1, 64])
@pytest.mark.parametrize(
    ("nodes", "has_ranks"),
    [
        ((node("a", 2),), False),
        ((node("a", 2), node("b", 0.5)), False),
        ((node("a", 3),), True),
        ((node("a", 2), node("b", 1)), True),
        ((node("a", 2), node("b", 8, hindrance="is leaving the cluster")), False),
        ((replace(node("a", 8), free={"CPU": 2.0}),), False),
    ],
)
def test_free_cpus_beside_the_target_decide(
    nodes: tuple[Node, ...],
    has_ranks: bool,
    driver_cores: int,
    target: PlannedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cluster.placement.cluster_nodes.usable_cores", lambda: driver_cores)
    choice = plan_drafter(replace(OPTIONS, tp=2), target, capacity(*nodes))
    assert choice.has_model_ranks is has_ranks
    assert choice.best_mode is (DecodeMode.AUTO if has_ranks else DecodeMode.SPECULATIVE)
    assert ("rank of its own" in choice.why) is has_ranks
    assert "trained for tiny" in choice.why


@pytest.mark.usefixtures("known")
def test_every_replica_and_every_group_counts(target: PlannedModel) -> None:
    assert plan_drafter(OPTIONS, target, capacity(node("a", 4), replicas=2)).has_model_ranks
    assert not plan_drafter(OPTIONS, target, capacity(node("a", 3), replicas=2)).has_model_ranks
    assert not capacity(node("a", 3), max_drafters=3).suffices(OPTIONS)


@pytest.mark.usefixtures("known")
def test_a_gpu_for_each_rank_decides_on_gpus(target: PlannedModel) -> None:
    cuda = replace(OPTIONS, device="cuda")
    assert not plan_drafter(cuda, target, capacity(node("a", 64, gpus=1))).has_model_ranks
    assert plan_drafter(cuda, target, capacity(node("a", 64, gpus=2))).has_model_ranks


@pytest.mark.usefixtures("known")
def test_a_drafter_on_cpus_leaves_the_gpus_to_the_target(target: PlannedModel) -> None:
    mixed = replace(OPTIONS, device="cuda", drafter_device="cpu")
    assert plan_drafter(mixed, target, capacity(node("a", 64, gpus=1))).has_model_ranks
    assert not plan_drafter(mixed, target, capacity(node("a", 1, gpus=1))).has_model_ranks


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("place", ASKED)
def test_a_place_that_is_asked_for_gives_ranks_on_a_full_cluster(
    place: PlaceOptions, target: PlannedModel
) -> None:
    assert plan_drafter(
        replace(OPTIONS, place=place), target, capacity(node("a", 1))
    ).has_model_ranks


@pytest.mark.usefixtures("known")
def test_a_number_of_drafters_gives_ranks_on_a_full_cluster(target: PlannedModel) -> None:
    for drafters in (1, 2):
        options = replace(OPTIONS, drafter_tp=drafters)
        assert plan_drafter(options, target, capacity(node("a", 1))).has_model_ranks
    assert plan_drafter(OPTIONS, target, capacity(node("a", 1), max_drafters=2)).has_model_ranks


@pytest.mark.parametrize("drafter", [None, "lookup", "inline:{}", "inline:{}+ngram"])
@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"place": PlaceOptions(drafter="far")}, "`place.drafter` far"),
        ({"place": PlaceOptions(drafter="near", cpus=2)}, "`place.drafter` near"),
        ({"drafter_tp": 1}, "`drafter_tp` 1"),
        ({"drafter_tp": 2}, "`drafter_tp` 2"),
        ({"drafters": 2}, "`drafters` 2"),
    ],
)
def test_a_drafter_in_the_targets_process_is_rejected_where_ranks_are_asked_for(
    drafter: str | None,
    fields: dict[str, object],
    asked: str,
    target: PlannedModel,
    tiny: Path,
) -> None:
    named = drafter.format(tiny) if drafter is not None else None
    options = replace(OPTIONS, drafter=named, **fields)  # type: ignore[arg-type]  # real fields
    with pytest.raises(ConfigError, match=f"^{asked} asks for a drafter on ranks of its own"):
        plan_drafter(options, target, capacity(node("a", 64)))


def test_several_drafters_side_by_side_need_ranks(target: PlannedModel) -> None:
    with pytest.raises(ConfigError, match=r"^`max_drafters` 4 asks for a drafter on ranks"):
        plan_drafter(OPTIONS, target, capacity(node("a", 64), max_drafters=4))


def test_ngrams_come_from_one_actor(target: PlannedModel) -> None:
    ngram = replace(OPTIONS, drafter="ngram", place=PlaceOptions(drafter="far"), drafter_tp=1)
    drafter = plan_drafter(ngram, target, capacity(node("a", 1)))
    assert drafter.spec == NgramDrafterSpec(target.vocab_size)
    with pytest.raises(ConfigError, match="`drafter_tp` is 2: ngram works in one actor"):
        plan_drafter(replace(ngram, drafter_tp=2), target, capacity(node("a", 64)))


def test_this_machine_keeps_a_core_for_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.placement.cluster_nodes.usable_cores", lambda: 2)
    local = replace(OPTIONS, ray_address=None)
    assert not DrafterCapacity(nodes=(this_machine(),)).suffices(local)
    monkeypatch.setattr("cluster.placement.cluster_nodes.usable_cores", lambda: 3)
    assert DrafterCapacity(nodes=(this_machine(),)).suffices(local)
