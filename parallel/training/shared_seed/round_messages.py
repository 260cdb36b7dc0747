"""What a machine and the one who closes rounds tell each other."""

from dataclasses import dataclass
from enum import Enum

from parallel.training.shared_seed.step import RoundCommit


class Receipt(Enum):
    """What became of a machine's bytes."""

    NONE = "none"
    """There were none."""
    TAKEN = "taken"
    REPEATED = "repeated"
    """They came before; nothing changes."""
    TOO_LATE = "too late"
    TOO_EARLY = "too early"
    """Of a round that has not begun: the machine is ahead of a log that was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineReport:
    """What a machine says; saying it again changes nothing."""

    round: int
    """The round that its replica is at: it has all commits before."""
    codes: bytes = b""
    """Its scalars for this round; none if it only wants to know what happened."""
    digest: bytes | None = None
    """Of its replica, 8 bytes, at rounds where replicas are compared."""
    loss: float | None = None
    """The mean loss of its samples, beside a digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundAnswer:
    """What it is told."""

    receipt: Receipt
    commits: tuple[RoundCommit, ...]
    """From its round on; more may follow."""
    open_round: int
    """The round that is open now."""
    is_done: bool
    """Whether the run has all its rounds; those in `commits` may not be the last."""
    must_restore: bool = False
    """Its replica is not like most others: it has to begin again from a snapshot."""
