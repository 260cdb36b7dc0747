"""The figures of a simulated shared-seed run."""

import json
from dataclasses import replace

import pytest

from cluster.options.simulate_options import SimulateSeedsOptions
from cluster.simulate.simulate_seeds import run

FEW = SimulateSeedsOptions(
    machines=4,
    rounds=12,
    directions=2,
    compute_s=1.0,
    spread=0.2,
    rtt_ms=100.0,
    mbit_s=10.0,
    loss=0.01,
    leaves_per_hour=0.0,
    patience=1.0,
    deadline_s=30.0,
    seed=1,
    json=True,
)


def test_a_run_reports_its_rate_and_its_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FEW) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["machines"] == 4
    result = found["result"]
    assert result["loss"] < result["loss_before"]
    assert 0 < result["rounds_per_hour"] <= 3600  # a round takes at least its second of computing
    assert result["up_bytes"] > 2
    assert run(replace(FEW, json=False)) == 0
    table = capsys.readouterr().out
    assert "rounds an hour" in table
    assert "4 machines, 100 ms round trip" in table
