"""Which rank goes to which node: arithmetic on the nodes' resources, without Ray.

A target's ranks communicate in every layer, so they share a node if one has capacity for all;
drafters communicate once a round, so any node is good, the leader's first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from cluster.options.place_options import MIN_CPUS, PlaceOptions
from runtime.errors import ConfigError

_SHARES = (1.0, 0.5, 0.25, 0.1, MIN_CPUS)
"""CPUs of a rank to try, until all ranks fit on idle nodes."""
_ROUNDING = 1e-6
_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as Ray sees it."""

    node_id: str
    address: str
    free: dict[str, float]
    total: dict[str, float]
    labels: dict[str, str]
    is_here: bool = False
    """Whether this process runs on it."""
    hindrance: str = ""
    """Why no rank may be placed on it, as "is leaving the cluster"; "" if ranks may."""

    @property
    def name(self) -> str:
        """Its name in messages: several nodes may share an address."""
        return f"{self.address} ({self.node_id[:6]})"

    def num_fitting(self, each: dict[str, float]) -> int:
        """Return how many ranks of this size fit into the free resources."""
        needed = {name: amount for name, amount in each.items() if amount > 0}
        return min(int((self.free.get(k, 0) + _ROUNDING) // v) for k, v in needed.items())

    def without(self, each: dict[str, float]) -> "Node":
        """Return the node after a rank has reserved its share."""
        return replace(self, free={k: v - each.get(k, 0) for k, v in self.free.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The ranks of one group, and what each of them reserves."""

    role: str
    size: int
    gpus: float = 0.0
    memory: float = 0.0
    """Bytes."""

    def each(self, cpus: float) -> dict[str, float]:
        """Return a rank's share by Ray's names."""
        return {"CPU": cpus, "GPU": self.gpus, "memory": self.memory}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The node of every rank."""

    cpus: float
    """CPUs that each rank reserves."""
    nodes: tuple[tuple[Node, ...], ...]
    """Of each need, the node of each rank."""


def plan_places(
    needs: Sequence[Need],
    nodes: Sequence[Node],
    options: PlaceOptions,
    *,
    target_ids: Sequence[str] = (),
) -> Plan:
    """Choose a node for each rank.

    Args:
        needs: the groups to place, the target first.
        nodes: all nodes; this process's node is preferred among equals.
        options: what the user asked for.
        target_ids: nodes of target ranks that run already, the leader's first.

    Raises:
        ConfigError: a group does not fit (the message names the resource, what the nodes have, and
            the nodes that are leaving or joining); or no node has the label of `domain`.
    """
    usable = [node for node in nodes if not node.hindrance]
    try:
        _check_label(options.domain, usable)
        return _plan_on(needs, usable, options, target_ids)
    except ConfigError as error:
        skipped = "; ".join(f"{node.name} {node.hindrance}" for node in nodes if node.hindrance)
        if not skipped:
            raise
        raise ConfigError(f"{error}. Not counted: {skipped}") from error


def _plan_on(
    needs: Sequence[Need],
    nodes: Sequence[Node],
    options: PlaceOptions,
    target_ids: Sequence[str],
) -> Plan:
    idle = [replace(node, free=dict(node.total)) for node in nodes]
    shares = (options.cpus,) if options.cpus is not None else _SHARES
    for share in shares:
        try:
            _place_all(needs, idle, options, share, target_ids)
        except ConfigError:
            if share == shares[-1]:
                raise
            continue
        return Plan(cpus=share, nodes=_place_all(needs, nodes, options, share, target_ids))
    raise AssertionError("the last share returns or raises")


def _check_label(label: str | None, nodes: Sequence[Node]) -> None:
    """Reject a label that no node has: ranks would be placed as if there were none."""
    if label is None or any(label in node.labels for node in nodes):
        return
    known = sorted({name for node in nodes for name in node.labels})
    raise ConfigError(
        f"`place.domain` is {label!r}: no node has this label; the nodes have "
        f"{', '.join(known) or 'no labels'}; start nodes with ray start --labels {label}=VALUE"
    )


def _place_all(
    needs: Sequence[Need],
    nodes: Sequence[Node],
    options: PlaceOptions,
    cpus: float,
    target_ids: Sequence[str],
) -> tuple[tuple[Node, ...], ...]:
    left = sorted(nodes, key=lambda node: not node.is_here)
    places = []
    for need in needs:
        each = need.each(cpus)
        if need.role == "target":
            chosen = _place_target(need, each, left, options)
            target_ids = [node.node_id for node in chosen]
        else:
            chosen = _place_drafter(need, each, left, options, target_ids)
        places.append(tuple(chosen))
        for taken in chosen:
            left = [n.without(each) if n.node_id == taken.node_id else n for n in left]
    return tuple(places)


def _place_target(
    need: Need, each: dict[str, float], nodes: Sequence[Node], options: PlaceOptions
) -> list[Node]:
    if options.target == "spread":
        return _spread(need, each, _first_nodes(nodes, each, options.nodes))
    packed = _pack(need, each, nodes)
    if packed is None and options.target == "pack":
        raise _no_fit(need, each, nodes, "on one node, as `place.target=pack` asks")
    return packed or _pack_over(need, each, nodes, options.domain)


def _place_drafter(
    need: Need,
    each: dict[str, float],
    nodes: Sequence[Node],
    options: PlaceOptions,
    target_ids: Sequence[str],
) -> list[Node]:
    leader = [node for node in nodes if node.node_id in target_ids[:1]]
    away = [node for node in nodes if node.node_id not in target_ids]
    if options.drafter == "near":
        packed = _pack(need, each, leader)
        if packed is None:
            raise _no_fit(need, each, leader, "on the leader's node, as `place.drafter=near` asks")
        return packed
    if options.drafter == "far":
        if not away:
            raise ConfigError(
                f"`place.drafter` is far: all {len(nodes)} nodes have target ranks; join more "
                "nodes, or take auto"
            )
        return _pack(need, each, away) or _pack_over(need, each, away, options.domain)
    return (
        _pack(need, each, leader)
        or _pack(need, each, nodes)
        or _pack_over(need, each, nodes, options.domain)
    )


def _pack(need: Need, each: dict[str, float], nodes: Sequence[Node]) -> list[Node] | None:
    """Return the node with the most capacity for all ranks, if they fit on it."""
    best = max(nodes, key=lambda node: node.num_fitting(each), default=None)
    if best is None or best.num_fitting(each) < need.size:
        return None
    return [best] * need.size


def _pack_over(
    need: Need, each: dict[str, float], nodes: Sequence[Node], domain: str | None
) -> list[Node]:
    """Return as few nodes as possible, all of one domain if a label names domains."""
    choices = [list(nodes)] if domain is None else _domains(nodes, domain)
    for members in choices:
        largest_first = sorted(members, key=lambda node: -node.num_fitting(each))
        places = [node for node in largest_first for _ in range(node.num_fitting(each))]
        if len(places) >= need.size:
            return places[: need.size]
    within = f", within one value of the label {domain}" if domain is not None else ""
    raise _no_fit(need, each, nodes, f"on all nodes together{within}")


def _domains(nodes: Sequence[Node], label: str) -> list[list[Node]]:
    known = sorted((n for n in nodes if label in n.labels), key=lambda n: n.labels[label])
    return [list(group) for _, group in groupby(known, key=lambda n: n.labels[label])]


def _first_nodes(
    nodes: Sequence[Node], each: dict[str, float], limit: int | None
) -> Sequence[Node]:
    """Return the first `limit` nodes with capacity for a rank."""
    if limit is None:
        return nodes
    fitting = [node for node in nodes if node.num_fitting(each) > 0]
    if len(fitting) < limit:
        raise ConfigError(
            f"`place.nodes` is {limit}: {len(fitting)} of {len(nodes)} nodes fit a rank; join "
            "more nodes, or ask for fewer"
        )
    return fitting[:limit]


def _spread(need: Need, each: dict[str, float], nodes: Sequence[Node]) -> list[Node]:
    """Return a node for each rank, on as many nodes as possible, neighboring ranks together."""
    fitting = {node.node_id: node.num_fitting(each) for node in nodes}
    if sum(fitting.values()) < need.size:
        raise _no_fit(need, each, nodes, "on all nodes together")
    counts = dict.fromkeys(fitting, 0)
    while sum(counts.values()) < need.size:
        for node_id, limit in fitting.items():
            if counts[node_id] < limit and sum(counts.values()) < need.size:
                counts[node_id] += 1
    return [node for node in nodes for _ in range(counts[node.node_id])]


def _no_fit(need: Need, each: dict[str, float], nodes: Sequence[Node], where: str) -> ConfigError:
    needed = {name: amount for name, amount in each.items() if amount > 0}
    short = _short_resources(need, needed, nodes)
    amounts = " and ".join(_amount(name, needed[name]) for name in short)
    free = "; ".join(
        f"{node.address} " + ", ".join(_free_of_total(node, name) for name in short)
        for node in nodes
    )
    return ConfigError(
        f"{need.role}: {need.size} rank(s) of {amounts} do not fit {where}. Free: "
        f"{free or 'no node'}. Take fewer ranks, free or join nodes"
        + (", or lower `place.cpus`" if "CPU" in short else "")
    )


def _short_resources(need: Need, needed: dict[str, float], nodes: Sequence[Node]) -> list[str]:
    """Return the resources that are short by themselves; all, if only their sum is."""
    short = [
        name
        for name, amount in needed.items()
        if sum(node.num_fitting({name: amount}) for node in nodes) < need.size
    ]
    if not short:
        short = [
            name
            for name, amount in needed.items()
            if all(node.num_fitting({name: amount}) < need.size for node in nodes)
        ]
    return short or list(needed)


def _amount(name: str, amount: float) -> str:
    return f"{amount / _GIB:.2f} GiB memory" if name == "memory" else f"{amount:g} {name}"


def _free_of_total(node: Node, name: str) -> str:
    free, total = node.free.get(name, 0), node.total.get(name, 0)
    if name == "memory":
        return f"{free / _GIB:.2f} of {total / _GIB:.2f} GiB memory"
    return f"{free:g} of {total:g} {name}"
