"""`paceline cluster check`: facts of the nodes, times between them, and where ranks would go."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actors.probe_actor import ProbeActor
from cluster.deploy.cluster_check_report import print_report
from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import plan_drafter
from cluster.deploy.target_plan import plan_target
from cluster.network.ray_errors import result_of
from cluster.network.ray_session import RaySession
from cluster.options.cluster_options import CheckOptions
from cluster.placement.placement import Node, plan_places
from cluster.placement.reservation import read_nodes
from runtime.errors import ConfigError, PacelineError
from runtime.node.node_probe import NodeFacts, PairTimes, ReduceTimes

_NOTES = Console(stderr=True, highlight=False)
_ANSWER_S = 60.0
_CACHE_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePair:
    """A connection from one node to another."""

    first: str
    second: str
    times: PairTimes | None
    """None if the second node cannot be reached."""


@dataclass(slots=True, kw_only=True)
class CheckReport:
    """Results of the check; `problems` is empty if there are none."""

    nodes: list[Node] = field(default_factory=list)
    facts: dict[str, NodeFacts] = field(default_factory=dict)
    """By node id."""
    pairs: list[NodePair] = field(default_factory=list)
    all_reduce: ReduceTimes | None = None
    placement: str = ""
    """The nodes that the target's and the drafter's ranks would run on."""
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


def run(options: CheckOptions) -> int:
    """Check the cluster and print the report; return 1 if there is a problem.

    Raises:
        ConfigError: there is no cluster, or the target cannot be used.
    """
    report = CheckReport()
    with RaySession(options.models.ray_address, num_actors=1):
        report.nodes = read_nodes()
        if options.models.target is not None or options.models.virtual is not None:
            _check_placement(options, report)
        with _progress(options.json) as step:
            _check_nodes(report, options.models.place.interface, step)
    if options.json:
        print(json.dumps(report.to_json()))
    else:
        print_report(report.to_json(), Console())
    for problem in report.problems:
        _NOTES.print(f"problem: {problem}", soft_wrap=True, markup=False, style="red")
    return 1 if report.problems else 0


def _check_placement(options: CheckOptions, report: CheckReport) -> None:
    """Report where the ranks would go, or which resource is short."""
    models = options.models
    target = plan_target(models)
    drafter = plan_drafter(models, target, DrafterCapacity(nodes=report.nodes))
    spec = plan_deployment(models, target, drafter, cache_tokens=_CACHE_TOKENS, stops=False)
    needs = [need for need in (spec.target_need, spec.drafter_need) if need is not None]
    try:
        plan = plan_places(needs, report.nodes, models.place)
    except ConfigError as error:
        report.problems.append(str(error))
        return
    groups = [
        f"{need.role} on {' + '.join(node.name for node in nodes)}"
        for need, nodes in zip(needs, plan.nodes, strict=True)
    ]
    report.placement = f"{', '.join(groups)}, {plan.cpus:g} CPU each"


def _check_nodes(
    report: CheckReport, interface: str | None, step: Callable[[str, int], None]
) -> None:
    for node in report.nodes:
        if node.hindrance:
            report.problems.append(f"{node.name} {node.hindrance}: no rank is placed there")
    probes = {node.node_id: _probe(node) for node in report.nodes if not node.hindrance}
    try:
        _read_facts(report, probes)
        step("reading nodes", len(report.nodes))
        hosts = _hosts(report, probes, interface)
        _measure_pairs(report, probes, hosts, step)
        if len(hosts) > 1:
            _measure_all_reduce(report, probes, hosts)
        step("all-reduce", 1)
    finally:
        for probe in probes.values():
            ray.kill(probe)


def _probe(node: Node) -> Any:
    where = NodeAffinitySchedulingStrategy(node_id=node.node_id, soft=False)
    return ray.remote(ProbeActor).options(num_cpus=0, scheduling_strategy=where).remote()


def _read_facts(report: CheckReport, probes: dict[str, Any]) -> None:
    asked = [(n, probes[n.node_id].facts.remote()) for n in report.nodes if n.node_id in probes]
    for node, call in asked:
        found = _answer(report, call, node.name)
        if found is not None:
            report.facts[node.node_id] = found
    report.problems += version_problems(report.nodes, report.facts)


def _hosts(report: CheckReport, probes: dict[str, Any], interface: str | None) -> dict[str, str]:
    """Return the address that each responding node listens on."""
    hosts = {}
    for node in report.nodes:
        if node.node_id not in report.facts:
            continue
        host: str | None = node.address
        if interface is not None:
            asking = probes[node.node_id].address_on.remote(interface)
            host = _answer(report, asking, node.name)
        if host is not None:
            hosts[node.node_id] = host
    return hosts


def _measure_pairs(
    report: CheckReport,
    probes: dict[str, Any],
    hosts: dict[str, str],
    step: Callable[[str, int], None],
) -> None:
    """Measure every pair; pairs without a common node are measured at the same time."""
    names = {node.node_id: node.name for node in report.nodes}
    ports = {}
    for node_id, host in hosts.items():
        port = _answer(report, probes[node_id].listen.remote(host), names[node_id])
        if port is not None:
            ports[node_id] = port
    for pairs in rounds_of_pairs(list(ports)):
        asked = [
            (a, b, probes[a].measure.remote(hosts[b], ports[b][0], ports[b][1])) for a, b in pairs
        ]
        for a, b, call in asked:
            times = _answer(report, call, f"{names[a]} to {names[b]}")
            report.pairs.append(NodePair(first=names[a], second=names[b], times=times))
        step("measuring pairs", len(pairs))


def version_problems(nodes: Sequence[Node], facts: Mapping[str, NodeFacts]) -> list[str]:
    """Return each version that differs between nodes, with the nodes that have it."""
    versions: dict[str, dict[str, list[str]]] = {}
    for node in nodes:
        if node.node_id in facts:
            for what, version in facts[node.node_id].versions:
                versions.setdefault(what, {}).setdefault(version, []).append(node.name)
    return [
        f"{what} differs: "
        + "; ".join(f"{version} on {', '.join(names)}" for version, names in places.items())
        for what, places in versions.items()
        if len(places) > 1
    ]


def rounds_of_pairs(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Return all pairs, in rounds in which no name appears twice."""
    rounds: list[list[tuple[str, str]]] = []
    for pair in combinations(names, 2):
        for members in rounds:
            if not any(set(pair) & set(other) for other in members):
                members.append(pair)
                break
        else:
            rounds.append([pair])
    return rounds


def _measure_all_reduce(report: CheckReport, probes: dict[str, Any], hosts: dict[str, str]) -> None:
    first, *_ = members = list(hosts)
    spec = _answer(report, probes[first].offer.remote(len(members), hosts[first]), "all-reduce")
    if spec is None:
        return
    calls = [probes[name].all_reduce.remote(spec, rank) for rank, name in enumerate(members)]
    found = [_answer(report, call, f"all-reduce, rank {rank}") for rank, call in enumerate(calls)]
    times = [each for each in found if each is not None]
    if len(times) == len(members):
        report.all_reduce = ReduceTimes(
            small_s=max(each.small_s for each in times),
            large_s=max(each.large_s for each in times),
        )


def _answer(report: CheckReport, call: Any, peer: str) -> Any:
    """Return a call's result; an error is added to the problems, and gives None."""
    try:
        return result_of(call, peer, timeout_s=_ANSWER_S)
    except PacelineError as error:
        report.problems.append(str(error))
        return None


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int], None]]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_NOTES,
        transient=True,
        disable=quiet,
    ) as progress:
        num = len(read_nodes())
        task = progress.add_task("reading nodes", total=num + num * (num - 1) // 2 + 1)

        def step(what: str, count: int) -> None:
            progress.update(task, description=what, advance=count)

        yield step
