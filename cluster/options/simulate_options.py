"""Options of the simulate verbs."""

from dataclasses import dataclass
from typing import Annotated

from cluster.options.schema import Flag, NotNegative, Picture, Positive, Seconds
from runtime.checking.tables import Range, Unset

_Positive = Annotated[float, Range(above=0)]
_NotNegative = Annotated[float, Range(least=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateSeedsOptions:
    """Run the shared-seed protocol for many distant machines, in virtual time."""

    machines: Positive = 256
    """Machines at a time."""
    rounds: Positive = 300
    """Rounds of the run."""
    directions: Positive = 1
    """Directions of a machine in a round; one byte each."""
    compute_s: Annotated[float, Range(least=1e-6)] = 2.0
    """Seconds of a round's forward passes on the median machine."""
    spread: _NotNegative = 0.3
    """Log-std of that time among machines, and again among rounds."""
    rtt_ms: Annotated[float, Range(least=0), Flag("--rtt")] = 150.0
    """Median round trip, in milliseconds."""
    mbit_s: Annotated[float, Range(least=1e-3), Flag("--mbit")] = 10.0
    """Bandwidth of each machine's link, in Mbit/s."""
    loss: Annotated[float, Range(least=0, below=1)] = 0.01
    """Share of messages that are lost."""
    leaves_per_hour: Annotated[float, Range(least=0), Flag("--leaves")] = 0.5
    """How often an hour each machine leaves; another one joins."""
    patience: _Positive = 0.5
    """A round ends after 1 + patience times the time of the faster half of the machines."""
    deadline_s: Seconds = 30.0
    """Seconds after which a round ends in any case."""
    seed: NotNegative = 0
    """Random seed."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateTrainOptions:
    """Compare straggler schemes on the same times, with the code that trains."""

    workers: Positive = 16
    """Number of workers; a trace has its own."""
    model: str = "gilbert-elliott"
    """Times of the workers: gilbert-elliott, serverless, or trace:FILE.csv. With gilbert-elliott
    computing takes the time, with serverless latency does; a trace has rounds as rows and workers
    as columns, in seconds. The first two take settings, as gilbert-elliott:slow=0.05,factor=3: slow
    and fast (probabilities to turn slow, and fast again), factor and tail (how slow), overhead,
    work, jitter (seconds)."""
    schemes: tuple[str, ...] = (
        "uncoded", "drop-2", "gc-1", "m-sgc-1-3-2", "sr-sgc-1-2-2", "frc-stream-2", "pull-4",
    )  # fmt: skip
    """Schemes with commas; the others are compared with the first. uncoded, drop-K, gc-S, frc-S,
    class-S, cyclic-S, roots-S, sr-sgc-B-W-L, m-sgc-B-W-L, frc-stream-D, pull-K."""
    rounds: Annotated[int, Range(least=2)] = 300
    """Number of rounds; a trace has its own."""
    patience: _Positive = 1.0
    """A worker is late after 1 + patience times the time of the fast ones."""
    slope: Annotated[float | None, Range(least=0), Unset("auto")] = None
    """Seconds that reading a whole batch adds to a trace's times; auto takes computing to be all
    that the workers did."""
    seed: NotNegative = 0
    """Random seed of the times."""
    plot: Picture | None = None
    """Chart of time against work, and of stragglers by scheme, to write."""
    json: bool = False
    """Print JSON."""
