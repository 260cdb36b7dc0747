"""Machines far apart, as they are simulated, and what came of a run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wan:
    """Machines and their links."""

    machines: int = 256
    rounds: int = 300
    directions: int = 1
    compute_s: float = 2.0
    """What a round's forward passes take on the median machine."""
    spread: float = 0.3
    """Standard deviation of that, in the logarithm, among machines and again among rounds."""
    rtt_s: float = 0.15
    """Median round trip; machines' own ones spread by a factor of two."""
    mbit_s: float = 10.0
    """Of each machine's link, each way."""
    loss: float = 0.01
    """Share of messages that have to be sent again."""
    leaves_per_hour: float = 0.5
    """How often a machine leaves; another comes in its place."""
    load_s: float = 20.0
    """What loading the model takes who joins."""
    apply_s: float = 0.001
    """What one direction of a replayed commit takes."""
    numbers: int = 460_800
    """Of the adapter: what a snapshot has four bytes for."""
    snapshot_every: int = 100
    frame_bytes: int = 60
    """Of gRPC, HTTP/2 and its headers around a message."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What came of it."""

    rounds: int
    hours: float
    rounds_per_hour: float
    scalars_a_round: float
    late_share: float
    """Of the scalars, those of an earlier round."""
    lost_scalars: float
    """Share of what was computed that never counted."""
    up_bytes: float
    """Of a machine and round."""
    down_bytes: float
    joins: int
    join_s: float
    """Median, from the first message to the first computing, loading the model included."""
    join_most_s: float
    join_bytes: float
    log_bytes: int
    loss_before: float
    loss: float
    witnesses_same: bool
