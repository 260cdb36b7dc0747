"""A machine of a shared-seed run: it joins, catches up, and sends a byte for each direction.

It may be interrupted at any time. It sends a report until it is answered; if the sequencer does not
know it any more, it joins again as another machine.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from parallel.training.shared_seed.byte_codec import encode
from parallel.training.shared_seed.round_messages import MachineReport, RoundAnswer
from parallel.training.shared_seed.step import AnyReplica, RoundCommit
from runtime.errors import PeerError, PeerLost, ProtocolError
from runtime.training.shared_seed.evaluate import RoundEvaluation
from runtime.training.shared_seed.member import Member, Next
from runtime.training.shared_seed.port import Joined, Port
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.sequencer import Rejected

_LOG = logging.getLogger("paceline.train")
_WAIT_S = 10.0
_T = TypeVar("_T")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 5.0


@dataclass(slots=True)
class WorkerProgress:
    """Progress of a worker after a round."""

    round: int
    machine: int
    num_rows: int = 0
    """Sequences that went through its model."""
    num_restored: int = 0
    num_joined: int = 0
    loss: float = 0.0
    digest: str = ""
    """Digest of its replica at the end of the run."""


class SeedWorker:
    """The loop of one machine."""

    def __init__(
        self,
        port: Port,
        *,
        name: str,
        fresh: Callable[[Header], AnyReplica],
        work: RoundEvaluation | None,
        give_up_s: float = 300.0,
        wait_s: float = _WAIT_S,
        sleep: Callable[[float], None] = time.sleep,
        before: Callable[[Member], None] = lambda _: None,
    ) -> None:
        """Prepare.

        Args:
            port: connection to the sequencer.
            name: for people to read.
            fresh: makes a replica with the initial weights.
            work: computes the scalars; None only follows the run.
            give_up_s: how long the sequencer may be silent.
            wait_s: how long to wait for a round's end before asking again.
            sleep: called to wait.
            before: called before the work of a round; may inject faults.
        """
        self._port = port
        self._name = name
        self._fresh = fresh
        self._work = work
        self._give_up_s = give_up_s
        self._wait_s = wait_s
        self._sleep = sleep
        self._before = before
        self.progress = WorkerProgress(0, -1)
        self.member: Member | None = None
        self.last_commit: RoundCommit | None = None

    def run(self, after: Callable[["SeedWorker"], bool] = lambda _: True) -> bool:
        """Work until the run is done; return False if `after` returned False.

        `after` is called after each round, and periodically in a long one.

        Raises:
            PeerError: the sequencer was silent for too long.
            ConfigError: it rejects this machine.
        """
        member = self._begin()
        codes, loss = b"", 0.0
        while True:
            answer = self._send(member.report(codes, loss))
            what = Next.JOIN if answer is None else member.take(answer)
            if answer is not None and answer.commits:
                self.last_commit = answer.commits[-1]
            if what is Next.JOIN:
                member = self._begin()
            elif what is Next.RESTORE:
                self._restore(member)
            self.progress.round = member.round
            if what is Next.END:
                self.progress.digest = member.replica.digest().hex()
            if what not in (Next.JOIN, Next.RESTORE, Next.CATCH_UP):
                if not after(self):
                    return False
                if what is Next.END:
                    return True
            if what is Next.REPEAT and codes:
                continue
            codes, loss = b"", 0.0
            if self._work is not None and what in (Next.COMPUTE, Next.REPEAT):
                codes, loss = self._compute(self._work, member)

    def _compute(self, work: RoundEvaluation, member: Member) -> tuple[bytes, float]:
        self._before(member)
        found = work(member)
        self.progress.num_rows += found.num_rows
        self.progress.loss = found.loss
        unit = member.replica.unit
        return bytes(encode(g, unit) for g in found.projected_grads), found.loss

    def _begin(self) -> Member:
        """Join, and restore the newest snapshot."""
        joined: Joined = self._retry(
            lambda: self._port.join(self._name, observes=self._work is None)
        )
        member = Member(joined.machine, joined.header, self._fresh(joined.header))
        self.member = member
        self.progress.machine = joined.machine
        self.progress.num_joined += 1
        self._take_snapshot(member)
        return member

    def _restore(self, member: Member) -> None:
        """Restart as the same machine from the snapshot, or without it every second time.

        The snapshot itself may be wrong.
        """
        _LOG.warning("machine %d: its replica differs from the others: restoring", member.machine)
        self.progress.num_restored += 1
        member.replica = self._fresh(member.header)
        if self.progress.num_restored % 2:
            self._take_snapshot(member)

    def _take_snapshot(self, member: Member) -> None:
        try:
            member.begin_from(self._retry(self._port.snapshot))
        except Rejected:
            _LOG.warning("machine %d is no longer known", member.machine)
        except ProtocolError as error:
            _LOG.warning("%s: applying the whole log instead", error)
            member.replica = self._fresh(member.header)

    def _send(self, report: MachineReport) -> RoundAnswer | None:
        """Send a report until it is answered; None if this machine is no longer known."""
        waits = report.codes or self._work is None  # else it only asks for new commits
        wait_s = self._wait_s if waits else 0.0
        try:
            return self._retry(lambda: self._port.exchange(report, wait_s))
        except Rejected as error:
            _LOG.warning("%s", error)
            return None

    def _retry(self, call: Callable[[], _T]) -> _T:
        return retry(call, give_up_s=self._give_up_s, sleep=self._sleep)


def retry(
    call: Callable[[], _T], *, give_up_s: float, sleep: Callable[[float], None] = time.sleep
) -> _T:
    """Return the result of a call to the sequencer; retry while it is unreachable.

    Raises:
        PeerLost: it was unreachable for so long.
    """
    deadline_s = time.monotonic() + give_up_s
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            return call()
        except PeerError as error:
            if time.monotonic() > deadline_s:
                raise PeerLost(
                    f"the sequencer did not answer for {give_up_s:g} s: {error}"
                ) from error
            _LOG.info("trying again: %s", error)
            sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
