"""A wide-area network of machines to simulate, and the result of a run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wan:
    """Machines and their links."""

    machines: int = 256
    rounds: int = 300
    directions: int = 1
    compute_s: float = 2.0
    """Seconds of a round's forward passes on the median machine."""
    spread: float = 0.3
    """Log-std of that time among machines, and again among rounds."""
    rtt_s: float = 0.15
    """Median round trip; those of single machines vary by a factor of two."""
    mbit_s: float = 10.0
    """Bandwidth of each machine's link in each direction."""
    loss: float = 0.01
    """Share of messages that have to be sent again."""
    leaves_per_hour: float = 0.5
    """How often a machine leaves; another one joins."""
    load_s: float = 20.0
    """Seconds in which a joining machine loads the model."""
    apply_s: float = 0.001
    """Seconds of one direction of a replayed commit."""
    numbers: int = 460_800
    """Trained weights; a snapshot has four bytes for each."""
    snapshot_every: int = 100
    frame_bytes: int = 60
    """Bytes of gRPC, HTTP/2 and headers around a message."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """The result of a simulated run."""

    rounds: int
    hours: float
    rounds_per_hour: float
    scalars_a_round: float
    late_share: float
    """Share of the scalars that are of an earlier round."""
    lost_scalars: float
    """Share of the computed scalars that never counted."""
    up_bytes: float
    """Bytes of a machine in a round."""
    down_bytes: float
    joins: int
    join_s: float
    """Median seconds from the first message to the first computation, with loading the model."""
    join_most_s: float
    join_bytes: float
    log_bytes: int
    loss_before: float
    loss: float
    witnesses_same: bool
