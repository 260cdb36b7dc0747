"""States are written beside the training, when they are due, whole, and never two at a time."""

import threading

import numpy as np
import pytest

from parallel.training.adamw import AdamW
from runtime.clock import ManualClock
from runtime.training.state_writer import StateWriter

DEADLINE_S = 60.0


class Disk:
    """Remembers what was written; a write waits for `release` while the disk is slow."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.sums: list[float] = []
        self.release = threading.Event()
        self.release.set()
        self.failure: OSError | None = None
        self.num_writing = 0

    def write(self, state: AdamW) -> None:
        self.num_writing += 1
        assert self.num_writing == 1
        assert self.release.wait(DEADLINE_S)
        self.num_writing -= 1
        if self.failure is not None:
            raise self.failure
        self.steps.append(state.step)
        self.sums.append(float(state.parameters.sum()))


def optimizer() -> AdamW:
    return AdamW.start(np.zeros(4, dtype=np.float32))


def advance(state: AdamW) -> None:
    state.update(np.ones(4, dtype=np.float32), lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.0)


def writer(
    disk: Disk, clock: ManualClock, *, every: int = 1, every_s: float | None = None
) -> StateWriter:
    return StateWriter(disk.write, clock, every=every, every_s=every_s, written_step=0)


def test_states_are_written_every_few_steps_and_at_the_end() -> None:
    disk, state = Disk(), optimizer()
    states = writer(disk, ManualClock(), every=3)
    for _ in range(8):
        advance(state)
        states.after_step(state)
        states.wait()
    assert disk.steps == [3, 6]
    states.finish(state)
    states.finish(state)
    assert disk.steps == [3, 6, 8]


def test_states_are_written_after_some_seconds() -> None:
    disk, state, clock = Disk(), optimizer(), ManualClock()
    states = writer(disk, clock, every=1000, every_s=10.0)
    for _ in range(9):
        clock.advance(4.0)
        advance(state)
        states.after_step(state)
        states.wait()
    assert disk.steps == [3, 6, 9]


def test_training_does_not_wait_for_a_slow_disk_and_its_state_is_that_of_one_step() -> None:
    disk, state = Disk(), optimizer()
    states = writer(disk, ManualClock())
    disk.release.clear()
    sums = {}
    for step in range(1, 6):
        advance(state)
        sums[step] = float(state.parameters.sum())
        states.after_step(state)  # returns although the first state is not written
    assert disk.steps == []
    disk.release.set()
    states.finish(state)
    assert disk.steps == [1, 5]
    assert disk.sums == [sums[1], sums[5]]


def test_a_disk_that_fails_is_noticed_at_the_next_step_and_the_state_stays_due() -> None:
    disk, state = Disk(), optimizer()
    states = writer(disk, ManualClock())
    disk.failure = OSError(28, "No space left on device")
    advance(state)
    states.after_step(state)
    states.wait()
    with pytest.raises(OSError, match="No space left"):
        states.after_step(state)
    with pytest.raises(OSError, match="No space left"):
        states.finish(state)
    disk.failure = None
    states.finish(state)
    assert disk.steps == [1]
