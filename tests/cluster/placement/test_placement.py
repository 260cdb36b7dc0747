"""Ranks go to nodes that they fit on, or the error names the resource that is short."""

import pytest

from cluster.options.place_options import PlaceOptions
from cluster.placement.placement import Need, Node, Plan, plan_places
from runtime.errors import ConfigError

GIB = 1024.0**3

ANYWHERE = PlaceOptions()


def node(
    name: str,
    *,
    cpus: float = 4,
    used: float = 0,
    gpus: float = 0,
    label: str | None = None,
    here: bool = False,
    hindrance: str = "",
) -> Node:
    total = {"CPU": cpus, "GPU": gpus, "memory": 8 * GIB}
    return Node(
        node_id=name,
        address=f"10.0.0.{name}",
        free=total | {"CPU": cpus - used},
        total=total,
        labels={"domain": label} if label is not None else {},
        is_here=here,
        hindrance=hindrance,
    )


def ids(plan: Plan) -> list[list[str]]:
    return [[n.node_id for n in nodes] for nodes in plan.nodes]


def target(size: int, **fields: float) -> Need:
    return Need(role="target", size=size, **fields)


def drafter(size: int) -> Need:
    return Need(role="drafter", size=size)


def place(needs: list[Need], nodes: list[Node], options: PlaceOptions = ANYWHERE) -> Plan:
    return plan_places(needs, nodes, options)


def test_a_target_that_fits_one_node_goes_to_one() -> None:
    plan = place([target(3)], [node("1", cpus=2), node("2", cpus=3), node("3", cpus=2)])
    assert ids(plan) == [["2", "2", "2"]]
    assert plan.cpus == 1


def test_a_larger_target_goes_to_as_few_nodes_as_suffice() -> None:
    plan = place([target(6)], [node("1", cpus=2), node("2"), node("3", cpus=2)])
    assert ids(plan) == [["2"] * 4 + ["1"] * 2]


def test_spread_takes_as_many_nodes_as_there_are_and_keeps_neighbours_together() -> None:
    plan = place(
        [target(5)], [node("1"), node("2", cpus=1), node("3")], PlaceOptions(target="spread")
    )
    assert ids(plan) == [["1", "1", "2", "3", "3"]]


def test_spread_takes_as_many_nodes_as_it_is_told() -> None:
    nodes = [node("1"), node("2", cpus=1, used=1), node("3"), node("4")]
    assert ids(place([target(4)], nodes, PlaceOptions(target="spread", nodes=2))) == [
        ["1", "1", "3", "3"]
    ]
    with pytest.raises(ConfigError, match=r"`place.nodes` is 4: 3 of 4 nodes fit a rank"):
        place([target(4)], nodes, PlaceOptions(target="spread", nodes=4, cpus=1))


def test_ranks_that_span_nodes_stay_within_a_domain() -> None:
    nodes = [node("1", cpus=3), *(node(n, cpus=2, label=d) for n, d in ("2a", "3b", "4b"))]
    assert ids(place([target(4)], nodes)) == [["1"] * 3 + ["2"]]
    assert ids(place([target(4)], nodes, PlaceOptions(domain="domain"))) == [["3", "3", "4", "4"]]
    with pytest.raises(ConfigError, match="within one value of the label domain"):
        place([target(5)], nodes, PlaceOptions(domain="domain", cpus=1))


def test_a_label_that_no_node_has_is_rejected_with_those_there_are() -> None:
    nodes = [node("1", cpus=4, label="a"), node("2")]
    for options in (PlaceOptions(domain="nvl"), PlaceOptions(target="spread", domain="nvl")):
        with pytest.raises(
            ConfigError,
            match=r"`place.domain` is 'nvl': no node has this label; the nodes have domain",
        ):
            place([target(1)], nodes, options)
    with pytest.raises(
        ConfigError,
        match=r"`place.domain` is 'nvl': no node has this label; the nodes have no labels",
    ):
        place([target(1)], [node("1")], PlaceOptions(domain="nvl"))


@pytest.mark.parametrize(
    "options", [ANYWHERE, PlaceOptions(target="spread"), PlaceOptions(drafter="near")]
)
def test_no_rank_goes_to_a_node_that_is_leaving(options: PlaceOptions) -> None:
    nodes = [node("1", cpus=8, here=True, hindrance="is leaving the cluster"), node("2")]
    assert ids(place([target(2), drafter(2)], nodes, options)) == [["2"] * 2, ["2"] * 2]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (PlaceOptions(cpus=1), 5),
        (PlaceOptions(target="pack", cpus=1), 5),
        (PlaceOptions(nodes=2, target="spread"), 2),
        (PlaceOptions(drafter="far"), 1),
    ],
)
def test_a_leaving_node_is_named_as_the_reason(options: PlaceOptions, size: int) -> None:
    nodes = [node("1"), node("2", hindrance="is leaving the cluster (it drains)")]
    with pytest.raises(ConfigError, match=r"Not counted: 10\.0\.0\.2 \(2\) is leaving the cluster"):
        place([target(size), drafter(1)], nodes, options)


def test_a_cluster_that_leaves_as_a_whole_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"Free: no node.*Not counted: .* is leaving"):
        place([target(1)], [node("1", hindrance="is leaving the cluster")])


def test_a_drafter_is_near_if_it_fits_there_else_anywhere() -> None:
    nodes = [node("1", cpus=3), node("2", cpus=2)]
    assert ids(place([target(2), drafter(1)], nodes)) == [["1", "1"], ["1"]]
    assert ids(place([target(3), drafter(2)], nodes)) == [["1"] * 3, ["2"] * 2]


def test_a_far_drafter_shares_no_node_with_the_target() -> None:
    nodes = [node("1"), node("2")]
    assert ids(place([target(2), drafter(2)], nodes, PlaceOptions(drafter="far"))) == [
        ["1"] * 2,
        ["2"] * 2,
    ]
    with pytest.raises(ConfigError, match="all 2 nodes have target ranks"):
        place([target(2), drafter(1)], nodes, PlaceOptions(target="spread", drafter="far"))


def test_a_near_drafter_is_rejected_where_the_leaders_node_is_full() -> None:
    with pytest.raises(ConfigError, match=r"drafter: 2 rank\(s\) of 1 CPU .* 10.0.0.1 1 of 4 CPU"):
        place(
            [target(3), drafter(2)],
            [node("1"), node("2", cpus=2)],
            PlaceOptions(drafter="near", cpus=1),
        )


def test_a_later_drafter_knows_where_the_target_is() -> None:
    options = PlaceOptions(drafter="far")
    plan = plan_places([drafter(1)], [node("1"), node("2")], options, target_ids=["1"])
    assert ids(plan) == [["2"]]


def test_small_nodes_give_fractions_of_a_cpu() -> None:
    plan = place([target(2), drafter(1)], [node("1", cpus=1), node("2", cpus=1)])
    assert plan.cpus == 0.5
    assert ids(plan) == [["1", "1"], ["2"]]


def test_a_busy_cluster_is_waited_for_and_not_shared_thinner() -> None:
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1 0\.5 of 4 CPU"):
        place([target(1)], [node("1", used=3.5)])


def test_equal_nodes_are_taken_from_here_on() -> None:
    assert ids(place([target(1)], [node("1"), node("2", here=True)])) == [["2"]]


@pytest.mark.parametrize(
    ("need", "options", "words"),
    [
        (target(3, gpus=1), ANYWHERE, r"3 rank\(s\) of 1 GPU do not fit on all nodes together"),
        (
            target(2, memory=9 * GIB),
            ANYWHERE,
            r"2 rank\(s\) of 9.00 GiB memory .* 8.00 of 8.00 GiB",
        ),
        (
            target(9),
            PlaceOptions(cpus=1),
            r"9 rank\(s\) of 1 CPU .* 10.0.0.1 4 of 4 CPU; 10.0.0.2 4 of 4 CPU",
        ),
        (
            target(5),
            PlaceOptions(target="pack", cpus=1),
            "on one node, as `place.target=pack` asks",
        ),
        (target(9), PlaceOptions(target="spread", cpus=1), "do not fit on all nodes together"),
    ],
)
def test_what_does_not_fit_is_rejected_by_resource_and_node(
    need: Need, options: PlaceOptions, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        place([need], [node("1", gpus=1), node("2", gpus=1)], options)
