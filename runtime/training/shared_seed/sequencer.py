"""The sequencer: receives each machine's bytes, decides which count, and logs the commits.

It never sees data or weights. Its decisions depend on the reports and on its clock; the log alone
determines the weights. Zelikman et al. (2023) share scalars among peers; here one process orders
them, so that replicas cannot disagree.
"""

import hashlib
import hmac
import math
import secrets
import statistics
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from parallel.training.learning_rate import Schedule, learning_rate
from parallel.training.shared_seed.byte_codec import ABSTAIN, FRACTION_BITS, LARGEST, decode
from parallel.training.shared_seed.numbering import MAX_MACHINES
from parallel.training.shared_seed.round_messages import MachineReport, Receipt, RoundAnswer
from parallel.training.shared_seed.step import Entry, RoundCommit
from runtime.clock import Clock
from runtime.errors import ConfigError, PacelineError
from runtime.training.shared_seed.seed_log import Machine, Records, SeedLog

_NAME_LENGTH = 64
_UNIT_KEPT = 0.9
_SMALLEST_UNIT, _LARGEST_UNIT = 1e-6, 1e12
_SHORTEST_S = 0.02
"""Shortest round that does not wait for all machines; clocks and messages are no finer."""
_DIGESTS_KEPT = 4
_OBSERVERS = 1024
"""Observers at a time; earlier ones have to join again."""
_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Rules for closing rounds, and for their steps."""

    rounds: int
    """Rounds of the run."""
    lr: float
    warmup: float = 0.0
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    momentum: float = 0.0
    normalise: bool = True
    """Divide a step by the scalars' root mean square (as FZOO does), so that lr has one meaning."""
    steady_scalars: float = 0.0
    """With n scalars the rate is lr n / (n + steady_scalars): fewer machines, shorter steps."""
    quorum: int = 1
    """Machines that a round needs before it closes."""
    deadline_s: float = 30.0
    """A round with its quorum closes after so long, with any machines missing."""
    patience: float = 1.0
    """Or after 1 + patience times the time of the faster half of the machines."""
    alive_s: float = 60.0
    """A machine that sent nothing for so long is not waited for."""
    late_rounds: int = 1
    """Rounds that bytes may be late and still count, for their own directions."""
    max_scalars: int = 64
    """Scalars that a machine may send in a round."""
    trim: float = 2.0
    """Scalars are clipped to exp(trim) times the round's median size, so no machine dominates."""


class Rejected(PacelineError):
    """A machine is rejected: unknown, with another secret, or beyond its limits."""


@dataclass(slots=True)
class _MachineRecord:
    machine: Machine
    last_s: float = -math.inf
    """When it last sent bytes."""
    digests: dict[int, bytes] = field(default_factory=dict)
    """Digests of its replica by round, of the last few comparisons."""
    joined_s: float = -math.inf
    loss: float | None = None
    owner: str = ""


class Sequencer:
    """The state of a run between two commits."""

    def __init__(self, log: SeedLog, records: Records, rules: Rules, clock: Clock) -> None:
        """Continue from the records of a log.

        Raises:
            ConfigError: a rule is impossible.
        """
        if rules.rounds < 1 or rules.quorum < 1 or not 1 <= rules.max_scalars < 1 << 16:
            raise ConfigError("rounds and quorum must be at least 1, max_scalars 1 to 65535")
        self.header = records.header
        self.commits = records.commits
        self.rules = rules
        self._log = log
        self._clock = clock
        self._machines = {m.number: _MachineRecord(m) for m in records.machines}
        self.num_joined = len(self._machines)
        self._num_observers = 0
        self._open: dict[tuple[int, int], bytes] = {}
        """Bytes received for the open round, by round and machine."""
        self._counted = {(e.round, e.machine) for c in self.commits[-64:] for e in c.entries}
        self._opened_s = clock.now_s()
        self._half_s: float | None = None
        """Seconds after which half of the machines had sent their bytes of the open round."""
        self._unit = self.commits[-1].next_unit if self.commits else 1.0
        self.num_restored = 0
        """Replicas that were sent back to a snapshot."""

    @property
    def round(self) -> int:
        """The round that is open."""
        return len(self.commits)

    @property
    def is_done(self) -> bool:
        """Whether all rounds are closed."""
        return self.round >= self.rules.rounds

    @property
    def num_alive(self) -> int:
        """Number of machines that sent bytes recently."""
        return len(self._alive())

    @property
    def loss(self) -> float | None:
        """Mean of the finite losses that live machines reported last; None if there are none."""
        losses = [self._machines[number].loss for number in self._alive()]
        known = [loss for loss in losses if loss is not None and math.isfinite(loss)]
        return statistics.fmean(known) if known else None

    def silent_s(self) -> dict[str, float]:
        """Return the seconds since a machine of each name sent bytes, or joined."""
        now_s = self._clock.now_s()
        last: dict[str, float] = {}
        for seen in self._machines.values():
            if seen.machine.number < MAX_MACHINES and seen.joined_s > -math.inf:
                name = seen.machine.name
                last[name] = max(last.get(name, -math.inf), seen.last_s, seen.joined_s)
        return {name: now_s - at_s for name, at_s in last.items()}

    def join(self, name: str, *, owner: str = "", observes: bool = False) -> tuple[int, bytes]:
        """Give a machine a number and a secret; a returning machine gets new ones.

        Args:
            name: for people to read.
            owner: its authenticated identity; an owner's earlier machine is dropped.
            observes: whether it only follows; it is not logged then.

        Raises:
            Rejected: the name is too long, or there are no numbers left.
        """
        if len(name) > _NAME_LENGTH or not name.isprintable():
            raise Rejected(f"a machine's name has at most {_NAME_LENGTH} printable characters")
        if self.num_joined == MAX_MACHINES and not observes:
            raise Rejected(f"all {MAX_MACHINES} numbers of machines are in use")
        number = MAX_MACHINES + self._num_observers if observes else self.num_joined
        secret = secrets.token_bytes(16)
        machine = Machine(number, name, hashlib.sha256(secret).digest(), self.round)
        if observes:
            self._num_observers += 1
            self._machines.pop(number - _OBSERVERS, None)
        else:
            self._log.append(machine)
            self.num_joined += 1
        for earlier in [n for n, s in self._machines.items() if owner and s.owner == owner]:
            if (earlier >= MAX_MACHINES) == observes:
                del self._machines[earlier]
        self._machines[number] = _MachineRecord(machine, joined_s=self._clock.now_s(), owner=owner)
        return number, secret

    def take(self, machine: int, secret: bytes, report: MachineReport) -> Receipt:
        """Record a machine's report; a repeated report changes nothing.

        Raises:
            Rejected: the machine is not known, or sent too much.
        """
        seen = self.known(machine, secret)
        if report.digest is not None:
            seen.digests[report.round] = report.digest
            for old in sorted(seen.digests)[:-_DIGESTS_KEPT]:
                del seen.digests[old]
            seen.loss = report.loss
        if not report.codes:
            early = report.round > self.round
            return Receipt.TOO_EARLY if early else Receipt.NONE
        if len(report.codes) > self.rules.max_scalars or machine >= MAX_MACHINES:
            raise Rejected(
                f"{len(report.codes)} scalars from machine {machine}: at most "
                f"{self.rules.max_scalars} are accepted in a round, and none from observers"
            )
        seen.last_s = self._clock.now_s()
        return self._put(seen.machine, report.round, report.codes)

    def known(self, machine: int, secret: bytes) -> "_MachineRecord":
        """Return the record of a machine; raise Rejected if it is unknown."""
        seen = self._machines.get(machine)
        digest = hashlib.sha256(secret).digest()
        if seen is None or not hmac.compare_digest(digest, seen.machine.secret_digest):
            raise Rejected(f"machine {machine} is not known, or sent another secret: join again")
        return seen

    def must_restore(self, machine: int, number: int) -> bool:
        """Return whether a replica differs from most others, before round `number`."""
        seen = self._machines[machine]
        mine = seen.digests.get(number)
        votes = Counter(s.digests[number] for s in self._machines.values() if number in s.digests)
        if mine is None or votes[mine] * 2 >= votes.total():
            return False
        del seen.digests[number]
        self.num_restored += 1
        return True

    def answer(self, machine: int, report: MachineReport, receipt: Receipt) -> RoundAnswer:
        """Return the answer to a machine's report."""
        found: list[RoundCommit] = []
        size = 0
        for commit in self.commits[report.round :]:
            found.append(commit)
            size += sum(len(entry.codes) + 2 for entry in commit.entries) + 32
            if size > _ANSWER_BYTES:
                break
        return RoundAnswer(
            receipt=receipt,
            commits=tuple(found),
            open_round=self.round,
            is_done=self.is_done,
            must_restore=self.must_restore(machine, report.round),
        )

    def poll(self) -> RoundCommit | None:
        """Close the round if it may close; return its commit."""
        if self.is_done:
            return None
        here = {machine for number, machine in self._open if number == self.round}
        if len(here) < self.rules.quorum:
            return None
        spent_s = self._clock.now_s() - self._opened_s
        alive = self._alive() | here
        if self._half_s is None and 2 * len(here) >= len(alive):
            self._half_s = spent_s
        limit_s = self.rules.deadline_s
        if self._half_s is not None:
            limit_s = min(limit_s, max(_SHORTEST_S, self._half_s * (1 + self.rules.patience)))
        if alive - here and spent_s < limit_s:
            return None
        commit = self._commit()
        self._log.append(commit)
        self.commits.append(commit)
        self._unit = commit.next_unit
        self._counted |= set(self._open)
        oldest = self.round - self.rules.late_rounds - 1
        self._counted = {key for key in self._counted if key[0] >= oldest}
        self._open = {}
        self._opened_s, self._half_s = self._clock.now_s(), None
        return commit

    def _alive(self) -> set[int]:
        now_s = self._clock.now_s()
        return {n for n, s in self._machines.items() if now_s - s.last_s <= self.rules.alive_s}

    def _put(self, machine: Machine, number: int, codes: bytes) -> Receipt:
        if number > self.round:
            return Receipt.TOO_EARLY
        if (number, machine.number) in self._open or (number, machine.number) in self._counted:
            return Receipt.REPEATED
        if self.is_done or number < max(self.round - self.rules.late_rounds, machine.round):
            return Receipt.TOO_LATE
        self._open[number, machine.number] = codes
        return Receipt.TAKEN

    def _commit(self) -> RoundCommit:
        rules = self.rules
        entries = tuple(
            Entry(number, machine, codes) for (number, machine), codes in sorted(self._open.items())
        )
        entries = trimmed(entries, rules.trim)
        values = [decode(code) for e in entries for code in e.codes if code != ABSTAIN]
        size = math.sqrt(statistics.fmean(v * v for v in values)) if values else 0.0
        lr = learning_rate(
            self.round,
            num_steps=rules.rounds,
            peak=rules.lr,
            warmup=rules.warmup,
            schedule=rules.schedule,
        )
        if rules.steady_scalars:
            lr *= len(values) / (len(values) + rules.steady_scalars)
        if rules.normalise:
            scale = 1 / size if size else 0.0
        else:
            scale = self._unit * 2.0**-FRACTION_BITS
        spread = size * self._unit * 2.0**-FRACTION_BITS
        unit = _UNIT_KEPT * self._unit + (1 - _UNIT_KEPT) * spread if values else self._unit
        return RoundCommit(
            round=self.round,
            entries=entries,
            factor=_rounded(lr * scale / max(len(values), 1)),
            decay=_rounded(1 - lr * rules.weight_decay),
            momentum=_rounded(rules.momentum),
            next_unit=_rounded(min(max(unit, _SMALLEST_UNIT), _LARGEST_UNIT)),
        )


def trimmed(entries: tuple[Entry, ...], trim: float) -> tuple[Entry, ...]:
    """Return the entries with no scalar larger than exp(trim) times the median of the machines'.

    A machine counts once, with its own median, however many scalars it sends.
    """
    levels = []
    for entry in entries:
        mine = [code & LARGEST for code in entry.codes if code & LARGEST]
        if mine:
            levels.append(statistics.median(mine))
    if not levels:
        return entries
    most = min(LARGEST, max(1, int(statistics.median_low(levels) + 8 * trim)))
    return tuple(
        Entry(
            entry.round,
            entry.machine,
            bytes(code & 0x80 | min(code & LARGEST, most) for code in entry.codes),
        )
        for entry in entries
    )


def _rounded(value: float) -> float:
    return float(np.float32(value))
