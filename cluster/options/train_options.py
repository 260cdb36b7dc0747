"""What the verbs about training were asked for; light to import, so `--help` is quick."""

from dataclasses import dataclass
from pathlib import Path

from cluster.options.verb_options import ConnectOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """`paceline train`."""

    config: Path
    settings: tuple[str, ...]
    """`section.key=value`, over what the file says."""
    ray_address: str | None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCancelOptions:
    """`paceline train cancel`."""

    directory: Path
    timeout_s: float
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStatusOptions:
    """`paceline train status`."""

    directory: Path
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainMergeOptions:
    """`paceline train merge`."""

    adapter: Path
    out: Path
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJoinOptions:
    """`paceline train join`."""

    connect: ConnectOptions
    data: Path
    model: str | None
    """In place of the name that the run has for it."""
    name: str
    reward: str
    threads: int
    device: str
    give_up_s: float
    settings: tuple[str, ...]
    """Faults to put in, `faults.key=value`."""
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReplayOptions:
    """`paceline train replay`, and `verify`."""

    log: Path
    base: str | None
    """None is what the log names."""
    result: Path
    """Where it goes, or what is verified."""
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLearnOptions:
    """`paceline bench learn`."""

    config: Path
    methods: tuple[str, ...]
    budget: int
    every: int
    tests: int
    first_lr: float
    out: Path
    settings: tuple[str, ...]
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateSeedsOptions:
    """`paceline simulate shared-seed`."""

    machines: int
    rounds: int
    directions: int
    compute_s: float
    spread: float
    rtt_s: float
    mbit_s: float
    loss: float
    leaves_per_hour: float
    patience: float
    deadline_s: float
    seed: int
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSeedsOptions:
    """`paceline bench shared-seed`."""

    model: str
    rank: int
    shapes: tuple[tuple[int, int], ...]
    """Directions, and samples of each."""
    wires: tuple[tuple[int, int], ...]
    """Machines, and directions of each."""
    machines: int
    """Whose scalars the timed commits have."""
    length: int
    repeats: int
    threads: int
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateTrainOptions:
    """`paceline simulate train`."""

    workers: int
    model: str
    schemes: tuple[str, ...]
    rounds: int
    patience: float
    """A worker is late after 1 + patience times what the fastest ones take."""
    slope: float | None
    """Of a trace: seconds that a unit of load adds; None takes computing to be all."""
    seed: int
    plot: Path | None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTrainOptions:
    """`paceline bench train`."""

    workers: int
    schemes: tuple[str, ...]
    factors: tuple[float, ...]
    """How slow stragglers are; 1 is none, infinite is a hang."""
    slow: float
    """Share of a worker's jobs at which it is a straggler."""
    steps: int
    batch: int
    step_s: float
    """What a step would take without anything but computing."""
    patience: float
    seed: int
    ray_address: str | None
    json: bool = False
