"""Which nodes ranks go to, and what they reserve there, as `place` asks for it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from runtime.errors import ConfigError

TARGET_PLACES = ("auto", "pack", "spread")
DRAFTER_PLACES = ("auto", "near", "far")
MIN_CPUS = 0.01
"""The smallest reservation of a rank: a placement group cannot reserve 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    """What `place` asks for."""

    target: str = "auto"
    """"pack" on one node, "spread" over as many as there are, "auto" on as few as suffice."""
    nodes: int | None = None
    """How many nodes "spread" uses; None: all."""
    drafter: str = "auto"
    """"near" on the leader's node, "far" from all target ranks, "auto" near if they fit."""
    cpus: float | None = None
    """CPUs each rank reserves; None: 1, or less where the nodes have too few."""
    domain: str | None = None
    """A node label, as of an NVLink domain; ranks that span nodes share one of its values."""
    interface: str | None = None
    """Name or network (10.0.0.0/8) of the interface that ranks listen on; None: Ray's."""
    port: int = 0
    """Where the leader's links listen; 0: any free port."""
    timeout_s: float = 20.0
    """How long a rank waits for another within a step."""
    wait_s: float = 10.0
    """How long to wait for nodes that join, or for resources that others release."""

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


def _set(options: PlaceOptions, key: str, value: str) -> PlaceOptions:
    """Return the options with one of them set."""
    match key:
        case "target":
            return replace(options, target=_one_of(key, value, TARGET_PLACES))
        case "drafter":
            return replace(options, drafter=_one_of(key, value, DRAFTER_PLACES))
        case "nodes":
            return replace(options, nodes=_whole_number(key, value))
        case "cpus":
            return replace(options, cpus=_number(key, value, minimum=MIN_CPUS))
        case "timeout":
            return replace(options, timeout_s=_number(key, value, minimum=0.1))
        case "wait":
            return replace(options, wait_s=_number(key, value, minimum=0.0))
        case "port":
            port = _number(key, value, minimum=0.0)
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


def _whole_number(key: str, value: str) -> int:
    number = _number(key, value, minimum=1)
    if number != int(number):
        raise ConfigError(f"`place` {key} is {value!r}: write a whole number")
    return int(number)


def _number(key: str, value: str, *, minimum: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not minimum <= number < float("inf"):
        raise ConfigError(f"`place` {key} is {value!r}: write a number from {minimum:g} on")
    return number
