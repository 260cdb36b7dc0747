"""How a cluster is measured, and what counts as a problem."""

from itertools import combinations

import pytest
from rich.console import Console

from cluster.deploy.cluster_check import CheckReport, NodePair, rounds_of_pairs, version_problems
from cluster.deploy.cluster_check_report import print_report
from cluster.placement.placement import Node
from runtime.node.node_probe import NodeFacts, PairTimes, ReduceTimes


def node(name: str, *, hindrance: str = "") -> Node:
    resources = {"CPU": 2.0}
    return Node(
        node_id=name,
        address=f"10.0.0.{name}",
        free=resources,
        total=resources,
        labels={},
        hindrance=hindrance,
    )


def facts(ray: str) -> NodeFacts:
    return NodeFacts(
        host="box",
        versions=(("python", "3.11.7"), ("ray", ray)),
        num_cores=2,
        memory_bytes=3 << 30,
        gpus=(),
        interfaces=(("eth0", "10.0.0.9"),),
    )


def test_versions_that_differ_are_reported_with_their_nodes() -> None:
    nodes = [node("1"), node("2"), node("3")]
    found = {"1": facts("2.60.0"), "2": facts("2.59.0"), "3": facts("2.60.0")}
    assert version_problems(nodes, found) == [
        "ray differs: 2.60.0 on 10.0.0.1 (1), 10.0.0.3 (3); 2.59.0 on 10.0.0.2 (2)"
    ]
    assert version_problems(nodes, {"1": facts("2.60.0")}) == []


def test_a_report_shows_nodes_that_do_not_answer_and_ways_that_are_cut() -> None:
    pairs = [
        NodePair(first="a", second="b", times=PairTimes(round_trip_s=0.002, bytes_per_s=125e6)),
        NodePair(first="a", second="c", times=None),
    ]
    report = CheckReport(
        nodes=[node("1"), node("2"), node("3", hindrance="is leaving the cluster (it drains)")],
        facts={"1": facts("2.60.0")},
        pairs=pairs,
        all_reduce=ReduceTimes(small_s=0.001, large_s=0.5),
        problems=["10.0.0.2 (2): no answer within 60 s"],
    )
    console = Console(width=160)
    with console.capture() as shown:
        print_report(report.to_json(), console)
    text = shown.get()
    assert "is leaving the cluster" in text
    for words in ("no answer", "3.0 GiB", "2.00 ms", "1.00 Gbit/s", "none", "500.00 ms for 1 MiB"):
        assert words in text
    assert "no problem found" not in text


@pytest.mark.parametrize("num_nodes", [0, 1, 2, 5, 8])
def test_every_pair_is_measured_once_and_no_node_twice_at_a_time(num_nodes: int) -> None:
    names = [f"n{number}" for number in range(num_nodes)]
    rounds = rounds_of_pairs(names)
    for pairs in rounds:
        busy = [name for pair in pairs for name in pair]
        assert len(busy) == len(set(busy))
    measured = [pair for pairs in rounds for pair in pairs]
    assert sorted(measured) == sorted(combinations(names, 2))
    assert len(rounds) <= max(0, 2 * num_nodes - 3)
