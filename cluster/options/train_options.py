"""Options of the train verbs."""

from dataclasses import dataclass
from pathlib import Path

from cluster.options.client_options import ConnectOptions


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
