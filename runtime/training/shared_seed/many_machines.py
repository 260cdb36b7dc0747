"""A shared-seed run of many machines in virtual time, over slow, lossy, long links.

The sequencer with its log, the machines' side of the protocol, codec and messages are those that
train; only time is simulated: computing, latency, bandwidth, losses, joining and leaving. Machines
learn a logistic regression on data of their own. Their replicas share one timeline, except for a
few witnesses, which have their own and must end with the same bits.
"""

import heapq
import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from parallel.training.shared_seed.byte_codec import encode
from parallel.training.shared_seed.directions import Direction, signs
from parallel.training.shared_seed.round_messages import MachineReport, Receipt, RoundAnswer
from parallel.training.shared_seed.space import DenseSpace
from parallel.training.shared_seed.step import AnyReplica, RoundCommit, WeightReplica
from runtime.clock import ManualClock
from runtime.training.shared_seed.member import Member, Next
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.sequencer import Rules, Sequencer
from runtime.training.shared_seed.shared_seed_job import open_log
from runtime.training.shared_seed.snapshot import pack_snapshot
from runtime.training.shared_seed.wan import SimulatedRun, Wan
from runtime.training.shared_seed.wire import answer_to_wire, report_to_wire

_SIZE, _RECORDS, _SEED, _EPS = 500, 4000, 1, 1e-2
_WAIT_S = 10.0
_RETRY_S = 1.0
"""Seconds after which a lost message is sent again."""
_TICK_S = 0.05
_WITNESSES = 3


class _Timeline:
    """The weights after every round, once for all machines."""

    def __init__(self) -> None:
        self.replica = WeightReplica(DenseSpace(_SEED, _SIZE), torch.zeros(_SIZE))
        self.thetas = [self.replica.theta.clone()]
        self.units = [1.0]
        self.digests = [self.replica.digest()]

    def add(self, commit: RoundCommit) -> None:
        self.replica.apply(commit)
        self.thetas.append(self.replica.theta.clone())
        self.units.append(self.replica.unit)
        self.digests.append(self.replica.digest())


class _OnTimeline(WeightReplica):
    """A replica that reads the shared timeline."""

    def __init__(self, timeline: _Timeline, number: int) -> None:
        super().__init__(DenseSpace(_SEED, _SIZE), timeline.thetas[number], next_round=number)
        self._timeline = timeline
        self.unit = timeline.units[number]

    def apply(self, commit: RoundCommit) -> None:
        assert commit.round == self.next_round
        self.next_round += 1
        self.theta = self._timeline.thetas[self.next_round]
        self.unit = self._timeline.units[self.next_round]

    def digest(self) -> bytes:
        return self._timeline.digests[self.next_round]


@dataclass(slots=True)
class _Machine:
    member: Member
    secret: bytes
    rtt_s: float
    slowness: float
    leaves_s: float
    codes: bytes = b""
    loss: float = 0.0
    gone: bool = False
    sent: int = 0
    """Number of its last message; answers to earlier ones are too late."""


@dataclass(slots=True)
class _Counts:
    up: int = 0
    down: int = 0
    exchanges: int = 0
    computed: int = 0
    joins_s: list[float] = field(default_factory=list)
    join_bytes: list[int] = field(default_factory=list)


class WanSimulation:
    """One simulated run."""

    def __init__(self, wan: Wan, rules: Rules, folder: Path) -> None:
        """Prepare a run whose log is in a folder."""
        self._wan = wan
        self._rng = np.random.default_rng(wan.seed)
        self._clock = ManualClock()
        header = Header(
            seed=_SEED, model="logistic", model_digest=b"", size=_SIZE, eps=_EPS, hash_every=20
        )
        self._header = header
        self._path = folder / "seeds.log"
        self._log, records = open_log(self._path, header)
        self._sequencer = Sequencer(self._log, records, rules, self._clock)
        self._timeline = _Timeline()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._waiting: list[tuple[_Machine, MachineReport, Receipt, int]] = []
        self._wire_bytes: dict[int, int] = {}
        self._counts = _Counts()
        self._witnesses: list[_Machine] = []
        self._drawn_round, self._drawn = -1, torch.empty(0)
        self._snapshots: dict[int, bytes] = {}
        self._x = torch.from_numpy(self._rng.standard_normal((_RECORDS, _SIZE)).astype(np.float32))
        truth = torch.from_numpy(self._rng.standard_normal(_SIZE).astype(np.float32))
        chance = torch.sigmoid(self._x @ truth * (3 / math.sqrt(_SIZE))).numpy()
        self._y = torch.from_numpy(
            np.where(self._rng.random(_RECORDS) < chance, 1, -1).astype(np.float32)
        )

    def run(self, watch: Callable[[int], None] = lambda _: None) -> SimulatedRun:
        """Run all rounds; `watch` is called with the number of each."""
        before = self._whole_loss()
        for _ in range(self._wan.machines):
            self._after(float(self._rng.uniform(0, 5)), self._join)
        self._after(_TICK_S, self._tick)
        num_seen = 0
        while not self._sequencer.is_done and self._events:
            at_s, _, event = heapq.heappop(self._events)
            self._clock.advance(at_s - self._clock.now_s())
            event()
            if self._sequencer.round > num_seen:
                num_seen = self._sequencer.round
                watch(num_seen)
        self._log.close()
        return self._report(before)

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._clock.now_s() + seconds, next(self._order), event))

    def _tick(self) -> None:
        self._poll()
        self._after(_TICK_S, self._tick)

    def _join(self) -> None:
        """Join a machine; it computes once it has model, snapshot and the rest of the log."""
        wan, start_s = self._wan, self._clock.now_s()
        number, secret = self._sequencer.join("m")
        newest = self._sequencer.round // wan.snapshot_every * wan.snapshot_every
        is_witness = len(self._witnesses) < _WITNESSES and (
            not self._witnesses or self._sequencer.round > len(self._witnesses) * 30
        )
        replica: AnyReplica = _OnTimeline(self._timeline, newest)
        member = Member(number, self._header, replica)
        if is_witness:
            member.replica = WeightReplica(DenseSpace(_SEED, _SIZE), torch.zeros(_SIZE))
            member.begin_from(self._snapshots.get(newest))
        life = 3600 / wan.leaves_per_hour if wan.leaves_per_hour else math.inf
        machine = _Machine(
            member=member,
            secret=secret,
            rtt_s=wan.rtt_s * float(self._rng.lognormal(0, 0.35)),
            slowness=float(self._rng.lognormal(0, wan.spread)),
            leaves_s=math.inf if is_witness else start_s + float(self._rng.exponential(life)),
        )
        if is_witness:
            self._witnesses.append(machine)
        num_bytes = 4 * wan.numbers if newest else 0
        loading_s = 2 * machine.rtt_s + num_bytes * 8 / (wan.mbit_s * 1e6) + wan.load_s
        self._after(
            loading_s,
            partial(self._catch_up, machine, start_s, num_bytes, self._sequencer.round > 0),
        )

    def _catch_up(self, machine: _Machine, start_s: float, num_bytes: int, under_way: bool) -> None:
        """Send the commits since the snapshot; the machine is ready when there are no more."""
        report = machine.member.report()
        receipt = self._sequencer.take(machine.member.machine, machine.secret, report)
        answer = self._sequencer.answer(machine.member.machine, report, receipt)
        size = self._answer_bytes(answer)
        scalars = sum(commit.num_scalars for commit in answer.commits)
        machine.member.take(answer)
        seconds = machine.rtt_s + size * 8 / (self._wan.mbit_s * 1e6) + scalars * self._wan.apply_s
        if answer.commits:
            more = num_bytes + size
            self._after(seconds, partial(self._catch_up, machine, start_s, more, under_way))
            return
        if under_way:
            self._counts.joins_s.append(self._clock.now_s() + seconds - start_s)
            self._counts.join_bytes.append(num_bytes)
        self._after(seconds, partial(self._compute, machine))

    def _compute(self, machine: _Machine) -> None:
        if self._clock.now_s() > machine.leaves_s:
            machine.gone = True
            self._after(float(self._rng.exponential(30.0)), self._join)
            return
        member = machine.member
        directions = member.directions(self._wan.directions)
        theta = member.replica.theta
        found = []
        for z in self._signs(member, directions):
            records = torch.from_numpy(self._rng.integers(0, _RECORDS, 64))
            high, low = (self._loss(theta + step * z, records) for step in (_EPS, -_EPS))
            found.append((high - low) / (2 * _EPS))
            machine.loss = (high + low) / 2
        machine.codes = bytes(encode(g, member.replica.unit) for g in found)
        self._counts.computed += len(found)
        seconds = (
            self._wan.compute_s * machine.slowness * float(self._rng.lognormal(0, self._wan.spread))
        )
        self._after(seconds, partial(self._send, machine))

    def _signs(self, member: Member, directions: list[Direction]) -> torch.Tensor:
        """Return a machine's directions; those of all machines are drawn at once."""
        if self._drawn_round != member.round:
            self._drawn_round = member.round
            numbers = range(self._sequencer.num_joined)
            all_of_them = [
                Direction(member.round, number, k)
                for number in numbers
                for k in range(self._wan.directions)
            ]
            self._drawn = signs(_SEED, all_of_them, _SIZE).view(len(numbers), -1, _SIZE)
        if member.machine < len(self._drawn):
            return self._drawn[member.machine]
        return signs(_SEED, directions, _SIZE)

    def _send(self, machine: _Machine) -> None:
        """Send the round's bytes; again, if no answer comes."""
        machine.sent += 1
        sent = machine.sent
        report = machine.member.report(machine.codes, machine.loss)
        self._counts.up += (
            report_to_wire(report, _WAIT_S, machine.member.machine, machine.secret).ByteSize()
            + self._wan.frame_bytes
        )
        self._counts.exchanges += 1
        if self._rng.random() < self._wan.loss:
            self._after(machine.rtt_s + _RETRY_S, partial(self._send_again, machine, sent))
            return
        self._after(machine.rtt_s / 2, partial(self._receive, machine, report, sent))
        self._after(machine.rtt_s + _WAIT_S + _RETRY_S, partial(self._send_again, machine, sent))

    def _send_again(self, machine: _Machine, sent: int) -> None:
        if machine.sent == sent and not machine.gone:
            self._send(machine)

    def _receive(self, machine: _Machine, report: MachineReport, sent: int) -> None:
        receipt = self._sequencer.take(machine.member.machine, machine.secret, report)
        self._waiting.append((machine, report, receipt, sent))
        self._poll()

    def _poll(self) -> None:
        commit = self._sequencer.poll()
        if commit is None:
            return
        self._timeline.add(commit)
        if self._sequencer.round % self._wan.snapshot_every == 0:
            self._snapshots[self._sequencer.round] = pack_snapshot(self._timeline.replica)
        self._answer_all()

    def _answer_all(self) -> None:
        """Answer the machines whose round is over."""
        still = []
        for machine, report, receipt, sent in self._waiting:
            if report.round >= self._sequencer.round:
                still.append((machine, report, receipt, sent))
                continue
            answer = self._sequencer.answer(machine.member.machine, report, receipt)
            size = self._answer_bytes(answer)
            self._counts.down += size
            seconds = machine.rtt_s / 2 + size * 8 / (self._wan.mbit_s * 1e6)
            if self._rng.random() >= self._wan.loss:
                self._after(seconds, partial(self._take, machine, answer, sent))
            else:
                self._after(machine.rtt_s + _RETRY_S, partial(self._send_again, machine, sent))
        self._waiting = still

    def _take(self, machine: _Machine, answer: RoundAnswer, sent: int) -> None:
        if machine.sent != sent or machine.gone:
            return
        what = machine.member.take(answer)
        assert what in (Next.COMPUTE, Next.CATCH_UP, Next.END, Next.REPEAT), what
        machine.sent += 1
        scalars = sum(commit.num_scalars for commit in answer.commits)
        self._after(scalars * self._wan.apply_s, partial(self._compute, machine))

    def _answer_bytes(self, answer: RoundAnswer) -> int:
        """Return the size of an answer on the wire; each commit is measured once."""
        total = self._wan.frame_bytes + 12
        for commit in answer.commits:
            if commit.round not in self._wire_bytes:
                alone = RoundAnswer(
                    receipt=Receipt.TAKEN, commits=(commit,), open_round=0, is_done=False
                )
                self._wire_bytes[commit.round] = answer_to_wire(alone).ByteSize()
            total += self._wire_bytes[commit.round]
        return total

    def _loss(self, theta: torch.Tensor, records: torch.Tensor) -> float:
        margin = self._y[records] * (self._x[records] @ theta)
        return float(torch.nn.functional.softplus(-margin).double().mean())

    def _whole_loss(self) -> float:
        return self._loss(self._timeline.replica.theta, torch.arange(_RECORDS))

    def _report(self, before: float) -> SimulatedRun:
        commits, counts = self._sequencer.commits, self._counts
        hours = self._clock.now_s() / 3600
        entries = [(c.round, e) for c in commits for e in c.entries]
        counted = sum(len(e.codes) for _, e in entries)
        late = sum(len(e.codes) for number, e in entries if e.round != number)
        for witness in self._witnesses:
            for commit in commits[witness.member.round :]:
                witness.member.replica.apply(commit)
        same = {w.member.replica.digest() for w in self._witnesses}
        return SimulatedRun(
            rounds=len(commits),
            hours=hours,
            rounds_per_hour=len(commits) / hours,
            scalars_a_round=counted / len(commits),
            late_share=late / max(counted, 1),
            lost_scalars=1 - counted / max(counts.computed, 1),
            up_bytes=counts.up / max(counts.exchanges, 1),
            down_bytes=counts.down / max(counts.exchanges, 1),
            joins=len(counts.joins_s),
            join_s=statistics.median(counts.joins_s) if counts.joins_s else 0.0,
            join_most_s=max(counts.joins_s, default=0.0),
            join_bytes=statistics.median(counts.join_bytes) if counts.join_bytes else 0.0,
            log_bytes=self._path.stat().st_size,
            loss_before=before,
            loss=self._whole_loss(),
            witnesses_same=same == {self._timeline.replica.digest()},
        )
