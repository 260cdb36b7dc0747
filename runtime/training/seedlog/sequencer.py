"""Who closes rounds: takes each machine's bytes, decides which count, and writes that down.

It never sees data or weights. What it decides is a function of what came in and of its clock; what
follows from that is in the log alone. Zelikman et al. (2023) share scalars among peers; here one
process orders them, so that replicas cannot disagree.
"""

import hashlib
import hmac
import math
import secrets
import statistics
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from parallel.training.adamw import learning_rate
from parallel.training.seedlog.codec import ABSTAIN, FRACTION_BITS, LARGEST, decode
from parallel.training.seedlog.directions import MAX_MACHINES
from parallel.training.seedlog.step import Commit, Entry
from runtime.clock import Clock
from runtime.errors import ConfigError
from runtime.training.seedlog.log import Machine, Records, SeedLog

_NAME_LENGTH = 64
_UNIT_KEPT = 0.9
_SMALLEST_UNIT = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How rounds are closed, and what steps they make."""

    rounds: int
    """Rounds of the run."""
    lr: float
    warmup: float = 0.0
    schedule: str = "constant"
    weight_decay: float = 0.0
    momentum: float = 0.0
    normalise: bool = True
    """Divide a step by the scalars' root mean square (as FZOO does), so that lr has one meaning."""
    quorum: int = 1
    """Machines that a round needs at least."""
    deadline_s: float = 30.0
    """A round that has its quorum is closed after so long, whoever is missing."""
    alive_s: float = 60.0
    """A machine that was silent for so long is not waited for."""
    late_rounds: int = 1
    """Bytes that are so many rounds late count still, for their own directions."""
    max_scalars: int = 64
    """Of a machine in a round."""
    trim: float = 2.0
    """Scalars are cut to exp(trim) times the round's median size: no machine moves the rest far."""


class Receipt(Enum):
    """What became of a machine's bytes."""

    TAKEN = "taken"
    REPEATED = "repeated"
    """They came before; nothing changes."""
    TOO_LATE = "too late"
    TOO_EARLY = "too early"
    """Of a round that has not begun: the machine is ahead of a log that was cut."""


class Refused(Exception):
    """A machine may not do this: unknown, without its secret, or beyond its bounds."""


@dataclass(slots=True)
class _Seen:
    machine: Machine
    last_s: float
    told: dict[int, bytes] = field(default_factory=dict)
    """Its replica's digest, by round; of the last few comparisons."""


class Sequencer:
    """The state of a run between two commits."""

    def __init__(self, log: SeedLog, records: Records, rules: Rules, clock: Clock) -> None:
        """Go on from what a log holds.

        Raises:
            ConfigError: a rule cannot be kept.
        """
        if rules.rounds < 1 or rules.quorum < 1 or not 1 <= rules.max_scalars < 1 << 16:
            raise ConfigError("rounds and quorum must be at least 1, max_scalars 1 to 65535")
        self.header = records.header
        self.commits = records.commits
        self.rules = rules
        self._log = log
        self._clock = clock
        self._machines = {m.number: _Seen(m, -math.inf) for m in records.machines}
        self._digests = {m.secret_digest for m in records.machines}
        self._open: dict[tuple[int, int], bytes] = {}
        """Bytes that wait for the round's end, by round and machine."""
        self._counted = {(e.round, e.machine) for c in self.commits[-64:] for e in c.entries}
        self._opened_s = clock.now_s()
        self._unit = self.commits[-1].next_unit if self.commits else 1.0

    @property
    def round(self) -> int:
        """The round that is open."""
        return len(self.commits)

    @property
    def unit(self) -> float:
        """What 1 means in this round's bytes; a float32."""
        return self._unit

    @property
    def is_done(self) -> bool:
        """Whether all rounds are closed."""
        return self.round >= self.rules.rounds

    @property
    def num_alive(self) -> int:
        """Machines that were heard of lately."""
        now_s = self._clock.now_s()
        return sum(now_s - seen.last_s <= self.rules.alive_s for seen in self._machines.values())

    def join(self, name: str) -> tuple[int, bytes]:
        """Give a machine a number and a secret; who comes back gets new ones.

        Raises:
            Refused: the name is too long, or there are no numbers left.
        """
        if len(name) > _NAME_LENGTH or not name.isprintable():
            raise Refused(f"a machine's name is at most {_NAME_LENGTH} characters to print")
        number = len(self._machines)
        if number >= MAX_MACHINES:
            raise Refused(f"all {MAX_MACHINES} numbers of machines were given away")
        secret = secrets.token_bytes(16)
        machine = Machine(number, name, hashlib.sha256(secret).digest(), self.round)
        self._log.append(machine)
        self._machines[number] = _Seen(machine, self._clock.now_s())
        return number, secret

    def submit(self, machine: int, secret: bytes, number: int, codes: bytes) -> Receipt:
        """Take what a machine found in a round; sending it again changes nothing.

        Raises:
            Refused: the machine is not known, or sent too much.
        """
        seen = self._known(machine, secret)
        seen.last_s = self._clock.now_s()
        if not 1 <= len(codes) <= self.rules.max_scalars:
            raise Refused(
                f"{len(codes)} scalars came from machine {machine}: 1 to {self.rules.max_scalars} "
                "are taken in a round"
            )
        if number > self.round or self.is_done:
            return Receipt.TOO_EARLY if number > self.round else Receipt.TOO_LATE
        if (number, machine) in self._open or (number, machine) in self._counted:
            return Receipt.REPEATED
        if number < max(self.round - self.rules.late_rounds, seen.machine.round):
            return Receipt.TOO_LATE
        self._open[number, machine] = codes
        return Receipt.TAKEN

    def hear(self, machine: int, secret: bytes) -> None:
        """Note that a machine is there; raises Refused if it is not known."""
        self._known(machine, secret).last_s = self._clock.now_s()

    def compare(self, machine: int, secret: bytes, number: int, digest: bytes) -> bool:
        """Tell whether a replica is like most, before round `number`; False asks for a new start.

        Raises:
            Refused: the machine is not known.
        """
        seen = self._known(machine, secret)
        seen.told[number] = digest
        for old in sorted(seen.told)[:-4]:
            del seen.told[old]
        votes = Counter(s.told[number] for s in self._machines.values() if number in s.told)
        return votes[digest] * 2 >= votes.total()

    def poll(self) -> Commit | None:
        """Close the round if it may be closed; return what it came to."""
        if self.is_done:
            return None
        here = {machine for number, machine in self._open if number == self.round}
        if len(here) < self.rules.quorum:
            return None
        now_s = self._clock.now_s()
        missing = [
            number
            for number, seen in self._machines.items()
            if number not in here and now_s - seen.last_s <= self.rules.alive_s
        ]
        if missing and now_s - self._opened_s < self.rules.deadline_s:
            return None
        commit = self._commit()
        self._log.append(commit)
        self.commits.append(commit)
        self._unit = commit.next_unit
        self._counted |= set(self._open)
        oldest = self.round - self.rules.late_rounds - 1
        self._counted = {key for key in self._counted if key[0] >= oldest}
        self._open = {}
        self._opened_s = now_s
        return commit

    def _known(self, machine: int, secret: bytes) -> _Seen:
        seen = self._machines.get(machine)
        digest = hashlib.sha256(secret).digest()
        if seen is None or not hmac.compare_digest(digest, seen.machine.secret_digest):
            raise Refused(f"machine {machine} is not known, or showed another secret: join anew")
        return seen

    def _commit(self) -> Commit:
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
        if rules.normalise:
            scale = 1 / size if size else 0.0
        else:
            scale = self._unit * 2.0**-FRACTION_BITS
        spread = size * self._unit * 2.0**-FRACTION_BITS
        unit = _UNIT_KEPT * self._unit + (1 - _UNIT_KEPT) * spread if values else self._unit
        return Commit(
            round=self.round,
            entries=entries,
            factor=_rounded(lr * scale / max(len(values), 1)),
            decay=_rounded(1 - lr * rules.weight_decay),
            momentum=_rounded(rules.momentum),
            next_unit=_rounded(max(unit, _SMALLEST_UNIT)),
        )


def trimmed(entries: tuple[Entry, ...], trim: float) -> tuple[Entry, ...]:
    """Return the entries with no scalar larger than exp(trim) times the median of the machines'.

    A machine counts once, by its own median: many scalars are not many voices.
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
