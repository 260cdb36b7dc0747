"""A machine's side of the protocol: its next report, and its reaction to the answer.

It sends no message and reads no clock: workers, tests and the simulation run the same object.
"""

from enum import Enum

from parallel.training.shared_seed.directions import Direction
from parallel.training.shared_seed.round_messages import MachineReport, Receipt, RoundAnswer
from parallel.training.shared_seed.step import AnyReplica, PoolReplica, WeightReplica, pooled
from runtime.training.shared_seed.points import Points
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.snapshot import restore


class Next(Enum):
    """What a machine does after an answer."""

    REPEAT = "repeat"
    """The round is still open."""
    COMPUTE = "compute"
    CATCH_UP = "catch up"
    """More commits exist than one answer holds."""
    RESTORE = "restore"
    """Restart from a snapshot."""
    JOIN = "join"
    """The log was cut: join again as a new machine."""
    END = "end"


def start_replica(header: Header, points: Points, device: str = "cpu") -> AnyReplica:
    """Return a run's weights before its first round."""
    start = points.start().to(device)
    if header.pool:
        return PoolReplica(header.seed, header.pool, start)
    return WeightReplica(points.space, start)


class Member:
    """One machine, from the time it joins."""

    def __init__(self, machine: int, header: Header, replica: AnyReplica) -> None:
        self.machine = machine
        self.replica = replica
        self.header = header

    @property
    def round(self) -> int:
        """The round that its replica is at."""
        return self.replica.next_round

    def directions(self, count: int) -> list[Direction]:
        """Return its directions of this round."""
        pool = self.header.pool
        return [pooled(Direction(self.round, self.machine, k), pool) for k in range(count)]

    def report(self, codes: bytes = b"", loss: float | None = None) -> MachineReport:
        """Return the report for this round; with a digest in rounds that compare replicas."""
        compares = self.round and self.round % self.header.hash_every == 0
        return MachineReport(
            round=self.round,
            codes=codes,
            digest=self.replica.digest() if compares else None,
            loss=loss if compares else None,
        )

    def begin_from(self, snapshot: bytes | None) -> None:
        """Restore a snapshot, if there is one; raise ProtocolError if it is damaged."""
        if snapshot is not None:
            restore(self.replica, snapshot)

    def take(self, answer: RoundAnswer) -> Next:
        """Apply the commits of an answer; return what to do next."""
        if answer.must_restore:
            return Next.RESTORE
        if answer.receipt is Receipt.TOO_EARLY or answer.open_round < self.round:
            return Next.JOIN
        for commit in answer.commits:
            self.replica.apply(commit)
        if self.round < answer.open_round:
            return Next.CATCH_UP
        if answer.is_done:
            return Next.END
        return Next.COMPUTE if answer.commits else Next.REPEAT
