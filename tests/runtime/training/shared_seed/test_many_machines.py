"""Many machines in virtual time: the protocol's own objects, and what they come to."""

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.training.shared_seed.many_machines import WanSimulation
from runtime.training.shared_seed.sequencer import Rules
from runtime.training.shared_seed.wan import SimulatedRun, Wan

WAN = Wan(machines=12, rounds=40, leaves_per_hour=20.0, snapshot_every=10, load_s=5.0)


def simulate(folder: Path, wan: Wan, **rules: float) -> SimulatedRun:
    folder.mkdir()
    fields = {"lr": 0.01, "patience": 0.5} | rules
    return WanSimulation(wan, Rules(rounds=wan.rounds, **fields), folder).run()  # type: ignore[arg-type]  # numbers


def test_machines_that_come_and_go_over_bad_links_learn(tmp_path: Path) -> None:
    found = simulate(tmp_path / "a", replace(WAN, loss=0.2, directions=4))
    assert found.rounds == 40
    assert found.witnesses_same
    assert found.joins > 3
    assert found.join_s > 5.0
    assert found.loss < found.loss_before - 0.003
    assert 24 < found.scalars_a_round <= 52
    assert 0 < found.late_share < 0.5


def test_one_run_is_one_run(tmp_path: Path) -> None:
    assert simulate(tmp_path / "a", WAN) == simulate(tmp_path / "b", WAN)


def test_longer_ways_make_longer_rounds_and_no_more_bytes(tmp_path: Path) -> None:
    calm = replace(WAN, loss=0.0, leaves_per_hour=0.0, rounds=15)
    near = simulate(tmp_path / "a", replace(calm, rtt_s=0.01))
    far = simulate(tmp_path / "b", replace(calm, rtt_s=1.0))
    assert near.rounds_per_hour > 1.2 * far.rounds_per_hour
    assert far.up_bytes == pytest.approx(near.up_bytes, abs=1)
    assert near.up_bytes < WAN.frame_bytes + 1 + 50
