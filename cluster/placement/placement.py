"""Which rank goes to which node: arithmetic on what the nodes have, without Ray.

A target's ranks talk in every layer, so they share a node if one has room for all; drafters talk
once a round, so any node will do, the leader's first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from runtime.errors import ConfigError

TARGET_PLACES = ("auto", "pack", "spread")
DRAFTER_PLACES = ("auto", "near", "far")
LEAST_CPUS = 0.01
"""What a rank reserves at the least: a placement group holds nothing of size 0."""
_SHARES = (1.0, 0.5, 0.25, 0.1, LEAST_CPUS)
"""CPUs of a rank, the most that the nodes could give to all."""
_ROUNDING = 1e-6
_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    """What `place` asks for."""

    target: str = "auto"
    """"pack" on one node, "spread" over as many as there are, "auto" on as few as suffice."""
    nodes: int | None = None
    """How many nodes "spread" takes; None: all there are."""
    drafter: str = "auto"
    """"near" on the leader's node, "far" from all target ranks, "auto" near if there is room."""
    cpus: float | None = None
    """CPUs each rank reserves; None: 1, or less where the nodes have too few."""
    domain: str | None = None
    """A node label; ranks that span nodes stay within one of its values, as an NVLink domain."""
    interface: str | None = None
    """Name or network (10.0.0.0/8) of the interface that ranks listen on; None: Ray's."""
    port: int = 0
    """Where the leader's links listen; 0: any free port."""
    timeout_s: float = 20.0
    """How long a rank waits for another within a step."""
    wait_s: float = 10.0
    """How long to wait for nodes that still join, or for room that others give back."""

    @staticmethod
    def parse(text: str | None) -> "PlaceOptions":
        """Read `target=spread,drafter=far,cpus=0.5`.

        Raises:
            ConfigError: a key or a value is unknown.
        """
        options = PlaceOptions()
        for part in (text or "").split(",") if text else ():
            key, _, value = part.partition("=")
            options = _set(options, key.strip(), value.strip())
        return options


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
    """Why no rank may be placed on it, as "is leaving the cluster"; "" where one may."""

    @property
    def name(self) -> str:
        """What people are told: several nodes may share an address."""
        return f"{self.address} ({self.node_id[:6]})"

    def room_for(self, each: dict[str, float]) -> int:
        """Return how many ranks of that size fit into what is free."""
        wanted = {name: amount for name, amount in each.items() if amount > 0}
        return min(int((self.free.get(k, 0) + _ROUNDING) // v) for k, v in wanted.items())

    def without(self, each: dict[str, float]) -> "Node":
        """Return the node once a rank has taken its part."""
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
        """Return a rank's part as Ray names it."""
        return {"CPU": cpus, "GPU": self.gpus, "memory": self.memory}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where every rank goes."""

    cpus: float
    """What each reserves."""
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
        nodes: what there is; this process's node is preferred among equals.
        options: what the user asked for.
        target_ids: nodes of target ranks that run already, the leader's first.

    Raises:
        ConfigError: a group does not fit; names the resource, what the nodes have, and the nodes
            that are leaving or joining. Or no node has the label that ranks are to share.
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
    """Refuse a label that no node has: ranks would be placed as if it had not been asked for."""
    if label is None or any(label in node.labels for node in nodes):
        return
    known = sorted({name for node in nodes for name in node.labels})
    raise ConfigError(
        f"`place` domain={label}: no node has the label {label!r}; the nodes have "
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
        raise _misfit(need, each, nodes, "on one node, as `place` target=pack asks")
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
            raise _misfit(need, each, leader, "on the leader's node, as `place` drafter=near asks")
        return packed
    if options.drafter == "far":
        if not away:
            raise ConfigError(
                f"`place` drafter=far: all {len(nodes)} nodes have target ranks; join more nodes, "
                "or take drafter=auto"
            )
        return _pack(need, each, away) or _pack_over(need, each, away, options.domain)
    return (
        _pack(need, each, leader)
        or _pack(need, each, nodes)
        or _pack_over(need, each, nodes, options.domain)
    )


def _pack(need: Need, each: dict[str, float], nodes: Sequence[Node]) -> list[Node] | None:
    """Return the roomiest node for all ranks, if one has room for all."""
    best = max(nodes, key=lambda node: node.room_for(each), default=None)
    if best is None or best.room_for(each) < need.size:
        return None
    return [best] * need.size


def _pack_over(
    need: Need, each: dict[str, float], nodes: Sequence[Node], domain: str | None
) -> list[Node]:
    """Return as few nodes as suffice, all of one domain if a label names domains."""
    choices = [list(nodes)] if domain is None else _domains(nodes, domain)
    for members in choices:
        roomiest = sorted(members, key=lambda node: -node.room_for(each))
        places = [node for node in roomiest for _ in range(node.room_for(each))]
        if len(places) >= need.size:
            return places[: need.size]
    within = f", within one value of the label {domain}" if domain is not None else ""
    raise _misfit(need, each, nodes, f"on all nodes together{within}")


def _domains(nodes: Sequence[Node], label: str) -> list[list[Node]]:
    known = sorted((n for n in nodes if label in n.labels), key=lambda n: n.labels[label])
    return [list(group) for _, group in groupby(known, key=lambda n: n.labels[label])]


def _first_nodes(
    nodes: Sequence[Node], each: dict[str, float], limit: int | None
) -> Sequence[Node]:
    """Return as many nodes with room as were asked for."""
    if limit is None:
        return nodes
    roomy = [node for node in nodes if node.room_for(each) > 0]
    if len(roomy) < limit:
        raise ConfigError(
            f"`place` nodes={limit}: {len(roomy)} of {len(nodes)} nodes have room for a rank; join "
            "more nodes, or ask for fewer"
        )
    return roomy[:limit]


def _spread(need: Need, each: dict[str, float], nodes: Sequence[Node]) -> list[Node]:
    """Return places on as many nodes as there are, neighbouring ranks together."""
    rooms = {node.node_id: node.room_for(each) for node in nodes}
    if sum(rooms.values()) < need.size:
        raise _misfit(need, each, nodes, "on all nodes together")
    counts = dict.fromkeys(rooms, 0)
    while sum(counts.values()) < need.size:
        for node_id, room in rooms.items():
            if counts[node_id] < room and sum(counts.values()) < need.size:
                counts[node_id] += 1
    return [node for node in nodes for _ in range(counts[node.node_id])]


def _misfit(need: Need, each: dict[str, float], nodes: Sequence[Node], where: str) -> ConfigError:
    wanted = {name: amount for name, amount in each.items() if amount > 0}
    short = _short_resources(need, wanted, nodes)
    asked = " and ".join(_amount(name, wanted[name]) for name in short)
    have = "; ".join(
        f"{node.address} " + ", ".join(_have(node, name) for name in short) for node in nodes
    )
    return ConfigError(
        f"{need.role}: {need.size} rank(s) of {asked} do not fit {where}. Free: "
        f"{have or 'no node'}. Take fewer ranks, free or join nodes"
        + (", or lower `place` cpus=" if "CPU" in short else "")
    )


def _short_resources(need: Need, wanted: dict[str, float], nodes: Sequence[Node]) -> list[str]:
    """Return the resources that alone already do not suffice; all, if only together."""
    short = [
        name
        for name, amount in wanted.items()
        if sum(node.room_for({name: amount}) for node in nodes) < need.size
    ]
    if not short:
        short = [
            name
            for name, amount in wanted.items()
            if all(node.room_for({name: amount}) < need.size for node in nodes)
        ]
    return short or list(wanted)


def _amount(name: str, amount: float) -> str:
    return f"{amount / _GIB:.2f} GiB memory" if name == "memory" else f"{amount:g} {name}"


def _have(node: Node, name: str) -> str:
    free, total = node.free.get(name, 0), node.total.get(name, 0)
    if name == "memory":
        return f"{free / _GIB:.2f} of {total / _GIB:.2f} GiB memory"
    return f"{free:g} of {total:g} {name}"


def _set(options: PlaceOptions, key: str, value: str) -> PlaceOptions:
    """Return the options with one of them set."""
    match key:
        case "target":
            return replace(options, target=_one_of(key, value, TARGET_PLACES))
        case "drafter":
            return replace(options, drafter=_one_of(key, value, DRAFTER_PLACES))
        case "nodes":
            return replace(options, nodes=_whole(key, value))
        case "cpus":
            return replace(options, cpus=_number(key, value, least=LEAST_CPUS))
        case "timeout":
            return replace(options, timeout_s=_number(key, value, least=0.1))
        case "wait":
            return replace(options, wait_s=_number(key, value, least=0.0))
        case "port":
            port = _number(key, value, least=0.0)
            if port != int(port) or port > 65535:
                raise ConfigError(f"`place` port is {value}: it must be 0 to 65535")
            return replace(options, port=int(port))
        case "domain" if value:
            return replace(options, domain=value)
        case "interface" if value:
            return replace(options, interface=value)
    raise ConfigError(
        f"`place` {key}={value} cannot be read: write target, nodes, drafter, cpus, domain, "
        "interface, port, timeout or wait, as target=spread,drafter=far"
    )


def _one_of(key: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise ConfigError(f"`place` {key} is {value!r}: choose one of {', '.join(known)}")
    return value


def _whole(key: str, value: str) -> int:
    number = _number(key, value, least=1)
    if number != int(number):
        raise ConfigError(f"`place` {key} is {value!r}: write a whole number")
    return int(number)


def _number(key: str, value: str, *, least: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not least <= number < float("inf"):
        raise ConfigError(f"`place` {key} is {value!r}: write a number from {least:g} on")
    return number
