"""Who closes rounds, on a clock turned by hand: quorum, deadline, late bytes, liars."""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from parallel.training.shared_seed.byte_codec import FRACTION_BITS, decode, encode
from parallel.training.shared_seed.directions import Direction, signs
from parallel.training.shared_seed.numbering import MAX_MACHINES
from parallel.training.shared_seed.round_messages import MachineReport, Receipt
from parallel.training.shared_seed.step import Entry
from runtime.clock import ManualClock
from runtime.errors import ConfigError
from runtime.training.shared_seed.seed_log import SeedLog
from runtime.training.shared_seed.sequencer import Rejected, Rules, Sequencer, trimmed
from runtime.training.shared_seed.shared_seed_job import open_log
from tests.support.shared_seed_runs import EPS, SEED, SIZE, fresh, header, loss_at

OPEN: list[SeedLog] = []


@pytest.fixture(autouse=True)
def close_logs() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


class Desk:
    """A sequencer and its machines."""

    def __init__(self, folder: Path, rules: Rules, machines: int) -> None:
        self.clock = ManualClock()
        self.path = folder / "seeds.log"
        self.log, records = open_log(self.path, header())
        OPEN.append(self.log)
        self.sequencer = Sequencer(self.log, records, rules, self.clock)
        self.secrets = [self.sequencer.join(f"m{n}")[1] for n in range(machines)]

    def say(self, machine: int, number: int, codes: bytes = b"\x50") -> Receipt:
        report = MachineReport(round=number, codes=codes)
        return self.sequencer.take(machine, self.secrets[machine], report)


def rules(**more: float) -> Rules:
    fields: dict[str, float] = {"rounds": 50, "lr": 0.03, "deadline_s": 10.0, "alive_s": 60.0}
    return Rules(**fields | more)  # type: ignore[arg-type]  # all are numbers


def test_a_round_ends_when_all_that_are_alive_have_come(tmp_path: Path) -> None:
    desk = Desk(tmp_path, rules(quorum=3), 3)
    for machine in range(2):
        desk.say(machine, 0)
        assert desk.sequencer.poll() is None
    desk.say(2, 0)
    commit = desk.sequencer.poll()
    assert commit is not None
    assert [entry.machine for entry in commit.entries] == [0, 1, 2]
    desk.say(0, 1)
    desk.clock.advance(100)  # machines 1 and 2 are not alive, but there is no quorum
    assert desk.sequencer.poll() is None


def test_a_round_ends_at_its_deadline_or_by_patience(tmp_path: Path) -> None:
    desk = Desk(tmp_path, rules(quorum=2, patience=1.0), 4)
    for machine in range(4):
        desk.say(machine, 0)
    assert desk.sequencer.poll()
    desk.clock.advance(2.0)
    desk.say(0, 1)
    assert desk.sequencer.poll() is None
    desk.clock.advance(1.0)
    desk.say(1, 1)  # half of them took 3 s: twice that is waited for
    assert desk.sequencer.poll() is None
    desk.clock.advance(2.9)
    assert desk.sequencer.poll() is None
    desk.clock.advance(0.2)
    commit = desk.sequencer.poll()
    assert commit is not None
    assert commit.num_scalars == 2
    assert desk.say(2, 1, b"\x51") is Receipt.TAKEN  # a round late
    for machine in (0, 1, 3):
        desk.say(machine, 2)
    desk.clock.advance(10.1)
    late = desk.sequencer.poll()
    assert late is not None
    assert late.entries[0] == Entry(1, 2, b"\x51")
    assert desk.say(2, 1) is Receipt.REPEATED
    assert desk.say(3, 1) is Receipt.TOO_LATE


def test_a_restart_resumes_from_the_log(tmp_path: Path) -> None:
    desk = Desk(tmp_path, rules(), 2)
    for number in range(5):
        for machine in range(2):
            desk.say(machine, number)
        while desk.sequencer.poll() is None:
            desk.clock.advance(1.0)
    other = Desk(tmp_path, rules(), 0)
    other.secrets = desk.secrets
    assert other.sequencer.commits == desk.sequencer.commits
    assert other.say(1, 4) is Receipt.REPEATED
    assert other.say(1, 5) is Receipt.TAKEN
    assert other.sequencer.join("new")[0] == 2


def test_steps_do_not_depend_on_the_scalars_size_or_number(tmp_path: Path) -> None:
    """With normalising, a step's root mean square is lr / sqrt(n)."""
    for place, (size, count) in enumerate(((0.01, 4), (5.0, 4), (5.0, 64))):
        folder = tmp_path / str(place)
        folder.mkdir()
        desk = Desk(folder, rules(max_scalars=64), 1)
        draw = random.Random(0)
        codes = bytes(encode(size * draw.choice((-1, 1)), 1.0) for _ in range(count))
        desk.say(0, 0, codes)
        commit = desk.sequencer.poll()
        assert commit is not None
        replica = fresh(header())
        replica.apply(commit)
        rms = float(replica.theta.square().mean().sqrt())
        assert rms == pytest.approx(0.03 / math.sqrt(count), rel=0.5)


def test_the_unit_follows_the_scalars(tmp_path: Path) -> None:
    desk = Desk(tmp_path, rules(), 1)
    for number in range(50):
        unit = desk.sequencer.commits[-1].next_unit if number else 1.0
        desk.say(0, number, bytes([encode(200.0, unit), encode(-200.0, unit)]))
        commit = desk.sequencer.poll()
        assert commit is not None
    assert commit is not None
    assert commit.next_unit == pytest.approx(200, rel=0.1)
    decoded = decode(commit.entries[0].codes[0]) * unit / (1 << FRACTION_BITS)
    assert decoded == pytest.approx(200, rel=0.07)


def descend(folder: Path, *, liars: int, trim: float) -> float:
    """Return the loss after 60 rounds of 8 machines, of which some send the worst they can."""
    folder.mkdir()
    desk = Desk(folder, rules(rounds=60, trim=trim, lr=0.05), 8)
    replica = fresh(header())
    for number in range(60):
        for machine in range(8):
            found = []
            for k in range(2):
                z = signs(SEED, [Direction(number, machine, k)], SIZE)[0]
                high, low = (loss_at(replica.theta + step * z) for step in (EPS, -EPS))
                found.append((high - low) / (2 * EPS))
            if machine < liars:
                codes = bytes(0xFF if g > 0 else 0x7F for g in found)  # uphill, as far as it goes
            else:
                codes = bytes(encode(g, replica.unit) for g in found)
            desk.say(machine, number, codes)
        commit = desk.sequencer.poll()
        assert commit is not None
        replica.apply(commit)
    return loss_at(replica.theta)


def test_a_liars_influence_is_bounded(tmp_path: Path) -> None:
    start = loss_at(fresh(header()).theta)
    honest = descend(tmp_path / "a", liars=0, trim=1.0)
    lied_to = descend(tmp_path / "b", liars=1, trim=1.0)
    unbounded = descend(tmp_path / "c", liars=1, trim=1000.0)
    assert honest < 0.1 * start
    assert lied_to < 0.35 * start  # it still learns
    assert unbounded > start  # without trimming it would not


def test_no_scalar_is_larger_than_the_bound() -> None:
    honest = [Entry(0, machine, bytes([60 + machine, 0x80 | 62])) for machine in range(5)]
    liar = Entry(0, 9, b"\x7f\xff\x80")
    (*_, cut) = trimmed((*honest, liar), 2.0)
    median = 62
    assert [code & 0x7F for code in cut.codes] == [median + 16, median + 16, 0]
    assert decode(cut.codes[0]) == pytest.approx(math.exp(2) * decode(median), rel=0.01)
    many = Entry(0, 9, b"\x7f" * 60)  # many scalars are not many voices
    assert trimmed((*honest, many), 2.0)[-1].codes == bytes([median + 16]) * 60


def test_three_in_ten_messages_lost_is_slower_not_worse(tmp_path: Path) -> None:
    desk = Desk(tmp_path, rules(rounds=200, lr=0.05), 6)
    replica, draw, counts = fresh(header()), random.Random(4), set()
    for number in range(120):
        for machine in range(6):
            if draw.random() < 0.3:
                continue  # lost
            z = signs(SEED, [Direction(number, machine, 0)], SIZE)[0]
            high, low = (loss_at(replica.theta + step * z) for step in (EPS, -EPS))
            desk.say(machine, number, bytes([encode((high - low) / (2 * EPS), replica.unit)]))
        commit = desk.sequencer.poll()
        while commit is None:
            desk.clock.advance(1.0)
            commit = desk.sequencer.poll()
        counts.add(commit.num_scalars)
        replica.apply(commit)
    assert len(counts) > 3
    assert loss_at(replica.theta) < 0.1 * loss_at(torch.zeros(SIZE))


def test_numbers_run_out_and_names_are_bounded(tmp_path: Path) -> None:
    desk = Desk(tmp_path, rules(), 1)
    for name in ("x" * 65, "a\nb"):
        with pytest.raises(Rejected, match="printable characters"):
            desk.sequencer.join(name)
    desk.sequencer.num_joined = MAX_MACHINES
    with pytest.raises(Rejected, match="are in use"):
        desk.sequencer.join("m")
    number, _ = desk.sequencer.join("watches", observes=True)
    assert number >= MAX_MACHINES
    with pytest.raises(ConfigError, match="at least 1"):
        Desk(tmp_path, rules(rounds=0), 0)
