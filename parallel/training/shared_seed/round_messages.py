"""The values that machines and the sequencer exchange in a round."""

from dataclasses import dataclass
from enum import Enum

from parallel.training.shared_seed.step import RoundCommit


class Receipt(Enum):
    """What happened to a machine's bytes."""

    NONE = "none"
    """The report had no bytes."""
    TAKEN = "taken"
    REPEATED = "repeated"
    """They had arrived before; nothing changes."""
    TOO_LATE = "too late"
    TOO_EARLY = "too early"
    """Their round has not started: the machine is ahead of a log that was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineReport:
    """A machine's report; sending it again changes nothing."""

    round: int
    """The round of its replica, which has all commits before."""
    codes: bytes = b""
    """Its scalars for this round; empty if it only asks for commits."""
    digest: bytes | None = None
    """Digest of its replica, 8 bytes, in rounds that compare replicas."""
    loss: float | None = None
    """Mean loss of its samples, sent with a digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundAnswer:
    """The sequencer's answer to a report."""

    receipt: Receipt
    commits: tuple[RoundCommit, ...]
    """Commits from the machine's round on; more may follow."""
    open_round: int
    """The round that is open now."""
    is_done: bool
    """Whether all rounds are closed; `commits` may not contain the last one."""
    must_restore: bool = False
    """Its replica differs from most others: it has to restart from a snapshot."""
