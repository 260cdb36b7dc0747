"""Options of the simulate verbs."""

from dataclasses import dataclass
from pathlib import Path


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
