"""The points of a sweep, with their devices; impossible points are rejected by key."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from cluster.experiment.experiment_config import Devices, Experiment, Sweep
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.types import DecodeMode
from runtime.errors import ConfigError

KEY_LEGEND = (
    "In a point's key, n is nodes, x replicas, tp target ranks, d drafter ranks, m drafters, lp "
    "layers at a time, g draft length, a alpha, s a draft step, then comes the mode, c is clients, "
    "r requests a second."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratePoint:
    """One combination of a sweep over generation settings."""

    AXES: ClassVar[tuple[str, ...]] = (
        "nodes",
        "replicas",
        "tp",
        "drafter_tp",
        "drafters",
        "layer_parallel",
        "draft_length",
        "alpha",
        "draft",
        "mode",
        "clients",
        "rate",
    )
    nodes: int
    replicas: int
    tp: int
    drafter_tp: int
    """The number of drafter ranks; 0 without a drafter or with an inline drafter."""
    drafters: int
    """The number of drafters of each target."""
    layer_parallel: str
    draft_length: int | None
    """The draft length; None lets the controller choose it."""
    alpha: float | None
    """Acceptance of a draft token, where the sweep has several; None: as the devices have it."""
    draft: float | None
    """Seconds of a draft step, where the sweep has several; None: as the devices have it."""
    mode: DecodeMode
    clients: int
    rate: float

    @property
    def drafts(self) -> bool:
        """Whether its mode drafts."""
        return policy_of(self.mode).drafts

    @property
    def key(self) -> str:
        """The name of the point in results and files."""
        parts = [f"n{self.nodes}"] if self.nodes > 1 else []
        parts += [f"x{self.replicas}"] if self.replicas > 1 else []
        parts.append(f"tp{self.tp}")
        if self.drafts:
            parts.append(f"d{self.drafter_tp}")
            parts += [f"m{self.drafters}"] if self.drafters > 1 else []
            parts += [f"lp{self.layer_parallel}"] if self.layer_parallel != "off" else []
            parts.append(f"g{'auto' if self.draft_length is None else self.draft_length}")
            parts += [f"a{self.alpha:g}"] if self.alpha is not None else []
            parts += [f"s{1000 * self.draft:g}ms"] if self.draft is not None else []
        parts.append(self.mode)
        parts += [f"c{self.clients}"] if self.clients > 1 else []
        parts += [f"r{self.rate:g}"] if self.rate else []
        return "-".join(parts)

    @property
    def devices(self) -> int:
        """The number of devices that it uses."""
        return self.replicas * (self.tp + self.drafters * self.drafter_tp)

    @property
    def deployment(self) -> tuple[object, ...]:
        """The values that determine the deployment; points with equal values share one."""
        return (
            self.nodes,
            self.replicas,
            self.tp,
            self.drafter_tp,
            self.drafters,
            self.layer_parallel,
            self.alpha,
            self.draft,
            self.batch,
        )

    @property
    def batch(self) -> int:
        """The maximum number of requests in flight."""
        return self.clients if not self.rate else max(self.clients, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPoint:
    """One combination of a sweep over training settings."""

    AXES: ClassVar[tuple[str, ...]] = ("workers", "scheme", "factor")
    workers: int
    scheme: str
    factor: float
    """The slowdown factor of a straggler; 1 means no stragglers."""

    @property
    def key(self) -> str:
        """The name of the point in results and files."""
        return f"w{self.workers}-{self.scheme}-{self.factor:g}x"

    @property
    def devices(self) -> int:
        """The number of devices that it uses."""
        return self.workers


Point = GeneratePoint | TrainPoint


def points_of(experiment: Experiment) -> list[GeneratePoint] | list[TrainPoint]:
    """Return the distinct points of a sweep.

    Raises:
        ConfigError: an axis has an impossible value; the message names the key.
    """
    sweep = experiment.sweep
    foreign = ("workers", "scheme", "factor")
    axes = foreign if experiment.kind == "generate" else GeneratePoint.AXES
    for name in axes:
        if getattr(sweep, name) != Sweep.model_fields[name].default:
            raise ConfigError(f"sweep.{name} has no effect when kind is {experiment.kind!r}")
    if experiment.kind == "train":
        made = [
            TrainPoint(workers=workers, scheme=scheme, factor=factor)
            for workers, scheme, factor in product(sweep.workers, sweep.scheme, sweep.factor)
        ]
        return list(dict.fromkeys(made))
    _check_generation(experiment)
    combinations = product(*(getattr(sweep, name) or [None] for name in GeneratePoint.AXES))
    points = list(dict.fromkeys(_point(*values) for values in combinations))
    for point in points:
        if point.nodes > point.tp:
            raise ConfigError(
                f"sweep.nodes has {point.nodes}, but the target of point {point.key} has "
                f"{point.tp} rank(s): it cannot use more nodes than ranks"
            )
    return points


def _point(
    nodes: int,
    replicas: int,
    tp: int,
    drafter_tp: int,
    drafters: int,
    layer_parallel: str | int,
    draft_length: int | str,
    alpha: float | None,
    draft: float | None,
    mode: DecodeMode,
    clients: int,
    rate: float,
) -> GeneratePoint:
    drafts = policy_of(mode).drafts
    return GeneratePoint(
        nodes=nodes,
        replicas=replicas,
        tp=tp,
        drafter_tp=drafter_tp if drafts else 0,
        drafters=drafters if drafts else 1,
        layer_parallel=str(layer_parallel) if drafts else "off",
        draft_length=int(draft_length) if drafts and draft_length != "auto" else None,
        alpha=alpha if drafts else None,
        draft=draft if drafts else None,
        mode=mode,
        clients=clients,
        rate=rate,
    )


def _check_generation(experiment: Experiment) -> None:
    sweep = experiment.sweep
    for text in sweep.layer_parallel:
        number = str(text)
        if number not in ("off", "auto") and not (number.isdecimal() and int(number) >= 1):
            raise ConfigError(f"sweep.layer_parallel has {text!r}: write off, auto or a number")
    for length in sweep.draft_length:
        if length != "auto" and length < 0:
            raise ConfigError(f"sweep.draft_length has {length}: write auto or a number from 0 on")
    if experiment.model is not None and (sweep.alpha or sweep.draft):
        raise ConfigError(
            "sweep.alpha and sweep.draft are of virtual devices: a model has its own; remove them, "
            "or the section [model]"
        )
    if sweep.draft and experiment.devices is not None and experiment.devices.layers is not None:
        raise ConfigError("sweep.draft has no effect: devices.layers give the time of a draft step")
    if experiment.model is None and experiment.devices is not None:
        _check_layers(experiment.devices, experiment)


def _check_layers(devices: Devices, experiment: Experiment) -> None:
    sweep = experiment.sweep
    if min(sweep.drafter_tp) < 1 and any(policy_of(mode).drafts for mode in sweep.mode):
        raise ConfigError(
            "sweep.drafter_tp has 0, but a virtual drafter has its own device: use at least 1"
        )
    if devices.layers is None:
        if any(text != "off" for text in sweep.layer_parallel):
            raise ConfigError(
                f"sweep.layer_parallel is {sweep.layer_parallel}, but devices.draft has no layers: "
                'leave it "off", or give devices.layers, attention and mlp in place of draft'
            )
        return
    if max(sweep.drafter_tp) > devices.layers:
        raise ConfigError(
            f"sweep.drafter_tp has {max(sweep.drafter_tp)}: devices.layers are {devices.layers}, "
            "and a rank needs one; use fewer ranks or more layers"
        )
